"""`hyperfields generate`: prompts to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from hyperfields.cli.options import Prompts, Text
from hyperfields.cli.scenes import IMAGES, VIDEOS, Sizes, check_suffix, load_model, read_prompts
from hyperfields.conditioning.vocabulary import file_name_of
from hyperfields.config import SHIPPED_MODEL
from priors_shared.cli import Device
from priors_shared.errors import UserError
from priors_shared.options import described, note

if TYPE_CHECKING:
    from hyperfields.fields.field import Field


@dataclass(frozen=True, kw_only=True)
class Generate(Sizes):
    """Generate meshes, images and videos from prompts, each scene in one forward pass."""

    prompt: Annotated[Positional[str | None], arg(metavar="[PROMPT]")] = None
    """what to generate, such as 'a red chair'"""
    prompts: Prompts = None
    model: Annotated[str, arg(metavar="MODEL")] = SHIPPED_MODEL
    """shipped weights, run folder, checkpoint folder or Hugging Face Hub id"""
    text: Text = None
    out: Annotated[Path, arg(metavar="PATH", aliases=["-o"])] = Path("generated")
    """a mesh (.glb, .ply, .obj), image (.png) or video (.mp4, .gif); or a folder, for one file per prompt and a
    contact sheet"""
    format: Literal["glb", "ply", "obj", "gif", "mp4", "png"] = "glb"
    """kind of the files in a folder: meshes, videos or images"""
    turntable: Annotated[Path | None, described("FILE", "(default: none)")] = None
    """video of the first scene, too: .mp4 or .gif"""
    device: Device = "cpu"

    def run(self) -> None:
        """Write the scenes."""
        prompts = read_prompts(self.prompt, self.prompts)
        into_folder = self.out.is_dir() or (not self.out.suffix and not self.out.exists())
        if not into_folder:
            check_suffix(self.out)
            if len(prompts) > 1 and self.out.suffix.lower() not in IMAGES:
                raise UserError(
                    f"out {self.out}: {len(prompts)} prompts need a folder, or .png for a contact sheet"
                )
        if self.turntable is not None and self.turntable.suffix.lower() not in VIDEOS:
            raise UserError(f"turntable {self.turntable}: use one of {', '.join(VIDEOS)}")
        model = load_model(self.model, self.device, self.text)
        for prompt in prompts:
            words = model.unknown_words(prompt)
            if words:
                note(
                    f"{prompt!r} is out of distribution: no training prompt has {' or '.join(words)}; "
                    "what follows is the nearest scene"
                )
        fields = model.generate_all(prompts)
        if into_folder:
            self._write_folder(fields)
        elif len(fields) > 1:
            self.write_sheet(fields, prompts, self.out)
        else:
            self.write(fields[0], self.out)
        if self.turntable is not None:
            self.write_video(fields[0], self.turntable)

    def _write_folder(self, fields: list[Field]) -> None:
        taken: set[str] = set()
        for field in fields:
            name = base = file_name_of(field.prompt)
            number = 1
            while name in taken:
                number += 1
                name = f"{base}-{number}"
            taken.add(name)
            self.write(field, self.out / f"{name}.{self.format}")
        self.write_sheet(fields, [f.prompt for f in fields], self.out / "contact_sheet.png")
