"""Contact sheets: a row a scene, a column a view."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hyperfields.fields.cameras import orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import as_bytes, composite_over, require_memory
from priors_shared.files import write_atomically


def contact_sheet(
    images: Sequence[Sequence[Float[Tensor, "height width 3"]]], labels: Sequence[str], path: Path
) -> None:
    """Write a PNG: one row per scene, labelled, one column per view.

    Args:
        images: of each scene, its views in [0, 1].
        labels: of the scenes.
        path: of the PNG.
    """
    from PIL import Image, ImageDraw

    height, width = images[0][0].shape[:2]
    require_memory("size", width, 16 * height * width * len(images) * len(images[0]))
    strip = 14
    sheet = Image.new("RGB", (width * len(images[0]), (height + strip) * len(images)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (views, label) in enumerate(zip(images, labels, strict=True)):
        top = row * (height + strip)
        draw.text((3, top + 1), label, fill="black")
        for column, view in enumerate(views):
            sheet.paste(Image.fromarray(as_bytes(view)), (column * width, top + strip))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def write_contact_sheet(
    fields: Sequence[Field], labels: Sequence[str], path: Path, *, size: int = 96, samples: int = 96
) -> None:
    """A contact sheet of fields from four sides."""
    cameras = [orbit(azimuth, 25, size) for azimuth in (20, 110, 200, 290)]
    rows = [list(composite_over(field.render_all(cameras, samples))) for field in fields]
    contact_sheet(rows, labels, path)
