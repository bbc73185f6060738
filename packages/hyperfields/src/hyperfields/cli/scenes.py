"""What generate and export share: the sizes of what is written, and the files of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfields.cli.options import ImageSize, Resolution, Samples
from priors_shared.errors import UserError
from priors_shared.options import note, say

if TYPE_CHECKING:
    from hyperfields.fields.field import Field
    from hyperfields.pretrained import HyperFields

MESHES, VIDEOS, IMAGES = (".glb", ".ply", ".obj"), (".mp4", ".gif"), (".png",)
SUFFIXES = (*MESHES, *VIDEOS, *IMAGES)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How finely scenes are written."""

    resolution: Resolution = 128
    size: ImageSize = 192
    samples: Samples = 96

    def __post_init__(self) -> None:
        require("from 2 to 4096", 2, 4096, resolution=self.resolution, size=self.size)
        require("from 2 to 4096", 2, 4096, samples=self.samples)

    def write(self, field: Field, path: Path) -> None:
        """Write a scene as the file's suffix says."""
        if path.suffix.lower() in MESHES:
            self._write_mesh(field, path)
        elif path.suffix.lower() in VIDEOS:
            self.write_video(field, path)
        else:
            self.write_sheet([field], [field.prompt], path)

    def _write_mesh(self, field: Field, path: Path) -> None:
        from hyperfields.output.mesh import write_mesh

        mesh = field.to_mesh(self.resolution)
        write_mesh(mesh, path)
        say(f"mesh      {path}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")

    def write_sheet(self, fields: Sequence[Field], labels: Sequence[str], path: Path) -> None:
        """Write an image of scenes from four sides."""
        from hyperfields.output.sheet import write_contact_sheet

        write_contact_sheet(fields, labels, path, size=self.size, samples=self.samples)
        say(f"image     {path}")

    def write_video(self, field: Field, path: Path) -> None:
        """Write a turntable."""
        from hyperfields.output.video import write_turntable

        written = write_turntable(field.bake(), path, size=self.size, samples=self.samples)
        if written != path:
            note(f"{path}: ffmpeg is missing, so the video is a GIF (pip install imageio-ffmpeg)")
        say(f"video     {written}")


def check_suffix(out: Path) -> None:
    """Refuse a file that is none of what can be written."""
    if out.suffix.lower() not in SUFFIXES:
        given = out.suffix or "of a file without suffix"
        raise UserError(
            f"out {out}: unknown format {given}: use one of {', '.join(SUFFIXES)}, or a folder"
        )


def require(rule: str, low: float | int, high: float | int, **values: float | int) -> None:
    """Refuse options out of range, by name."""
    for name, value in values.items():
        if not low <= value <= high:
            raise UserError(f"{name} {value}: give a number {rule}")


def load_model(name: str, device: str = "cpu", text: str | None = None) -> HyperFields:
    """The model of that name on that device."""
    from hyperfields.pretrained import HyperFields
    from priors_shared.devices import launch

    return HyperFields.from_pretrained(name, launch(device).device, text=text)


def read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The prompt given, or those of a file, one a line."""
    if (prompt is None) == (file is None):
        raise UserError("give a prompt, such as 'a red chair', or --prompts FILE")
    if file is None:
        if not str(prompt).strip():
            raise UserError("the prompt is empty: write what to show, such as 'a red chair'")
        return [str(prompt)]
    try:
        content = file.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"prompts {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {line}: not UTF-8: save the file as UTF-8") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{file}: holds no prompt: write one a line")
    if len(prompts) < len(lines):
        note(f"{file}: {len(lines) - len(prompts)} blank lines left out")
    return prompts
