"""Folders of teachers: trained fields, or posed renders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperfields.conditioning.text import normalise
from hyperfields.data.posed_renders import read_views
from hyperfields.data.views import TRANSFORMS, PosedViews
from hyperfields.fields.cameras import Camera
from hyperfields.fields.field import Field
from priors_shared.checkpoints import CONFIG
from priors_shared.errors import UserError


def field_views(field: Field, cameras: Sequence[Camera], samples: int = 96) -> PosedViews:
    """Views of a trained NeRF."""
    return PosedViews(normalise(field.prompt), cameras, field.render_all(cameras, samples))


def read_teachers(
    root: Path, cameras: Sequence[Camera], *, pose_scale: float = 1.0
) -> dict[str, PosedViews]:
    """Views of each teacher in a folder, by prompt.

    Args:
        root: its subfolders each hold a trained NeRF (of `hyperfields teach`) or posed renders; or it is such
            a folder itself.
        cameras: where trained NeRFs are looked at from.
        pose_scale: see `read_views`.

    Raises:
        UserError: no teacher, two of one prompt, or one that is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of teachers")
    folders = (
        [root] if _is_teacher(root) else sorted(path for path in root.iterdir() if path.is_dir())
    )
    teachers: dict[str, PosedViews] = {}
    for folder in folders:
        if (folder / TRANSFORMS).is_file():
            views = read_views(folder, pose_scale=pose_scale)
        elif _is_teacher(folder):
            held = folder / "model" if (folder / "model").is_dir() else folder
            views = field_views(Field.load(held), cameras)
        else:
            raise UserError(
                f"{folder}: neither posed renders ({TRANSFORMS} is missing) nor a trained NeRF "
                f"({CONFIG} is missing); remove the folder or complete it"
            )
        if views.prompt in teachers:
            raise UserError(f"{folder}: a second teacher of {views.prompt!r}; keep one")
        teachers[views.prompt] = views
    if not teachers:
        raise UserError(f"{root}: holds no teacher; give one subfolder for each prompt")
    return teachers


def _is_teacher(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (TRANSFORMS, CONFIG, f"model/{CONFIG}"))
