"""`hyperfields segment`: parts of an object in 3D, from a few posed views."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.options import ImageSize, Model, PoseScale, Resolution
from hyperfields.cli.scenes import MESHES, require
from priors_shared.errors import UserError
from priors_shared.options import note, say


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Segment an object into parts, in 3D, from a few posed views, in one forward pass."""

    model: Model
    views: Annotated[Positional[Path], arg(metavar="VIEWS")]
    """folder with posed renders of one object and transforms.json; four views are best"""
    out: Annotated[Path, arg(metavar="PATH", aliases=["-o"])] = Path("labels.ply")
    """mesh in the colours of its parts (.ply, .glb, .obj); a .ply holds the labels as numbers too"""
    pose_scale: PoseScale = 1.0
    resolution: Resolution = 128
    size: ImageSize = 128

    def __post_init__(self) -> None:
        require("from 2 to 4096", 2, 4096, resolution=self.resolution, size=self.size)
        require("above 0", 1e-9, 1e9, pose_scale=self.pose_scale)

    def run(self) -> None:
        """Write a labelled mesh and an image."""
        if self.out.suffix.lower() not in MESHES:
            raise UserError(f"out {self.out}: unknown format: use one of {', '.join(MESHES)}")
        if not self.views.is_dir():
            raise UserError(f"{self.views}: no such folder of posed renders")
        from hyperfields.data.posed_renders import read_views
        from hyperfields.output.mesh import write_mesh
        from hyperfields.segmentation.labels import labelled_mesh, write_labelled_views
        from hyperfields.segmentation.pretrained import HyperSegmentationFields

        model = HyperSegmentationFields.from_pretrained(self.model)
        views = read_views(self.views, pose_scale=self.pose_scale)
        wanted = model.trained.get("input_views", len(views.cameras))
        if len(views.cameras) != wanted:
            note(f"{self.views}: {len(views.cameras)} views; the model was trained with {wanted}")
        field = model.generate(views.images, views.cameras, views.prompt)
        mesh, labels = labelled_mesh(field, self.resolution)
        write_mesh(mesh, self.out)
        sheet = self.out.with_suffix(".png")
        write_labelled_views([field], [views.prompt], sheet, size=self.size)
        counts = Counter(labels.tolist())
        for index, part in enumerate(model.parts):
            fraction = counts[index] / len(mesh.vertices)
            if fraction > 0.01:
                say(f"part      {index:>2} {part}: {100 * fraction:.0f} % of the vertices")
        say(f"mesh      {self.out}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
        say(f"image     {sheet}")
