"""Pictures for a page, and figures of curves."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from priors_shared.errors import UserError
from priors_shared.runs import Savable


@dataclass(frozen=True)
class Figure:
    """A picture that the page holds in itself."""

    content: bytes
    media_type: str
    """Such as "image/png"."""
    caption: str = ""

    @classmethod
    def from_matplotlib(
        cls, figure: Savable, caption: str = "", *, format: str = "svg"
    ) -> "Figure":
        """Render a matplotlib figure to "svg", or to "png" where it holds many points."""
        from matplotlib import rc_context  # late: it takes half a second

        out = io.BytesIO()
        # Without date and with fixed ids, the same figure is the same bytes.
        with rc_context({"svg.hashsalt": "priors"}):
            metadata = {"Date": None} if format == "svg" else None
            figure.savefig(out, format=format, dpi=150, bbox_inches="tight", metadata=metadata)
        return cls(out.getvalue(), "image/svg+xml" if format == "svg" else "image/png", caption)

    @classmethod
    def from_file(cls, path: Path, caption: str = "") -> "Figure":
        """Take a PNG, JPEG, GIF, WebP or SVG file.

        Raises:
            UserError: another kind of file.
        """
        types = {".jpg": "jpeg", ".svg": "svg+xml"} | {
            f".{name}": name for name in ("png", "jpeg", "gif", "webp")
        }
        if path.suffix.lower() not in types:
            raise UserError(f"{path}: not a picture (give {', '.join(sorted(types))})")
        return cls(path.read_bytes(), f"image/{types[path.suffix.lower()]}", caption)

    def thumbnail(self, width: int) -> "Figure":
        """Return it at most `width` pixels wide, for a card; what Pillow can't read, such as SVG, stays as it is."""
        from PIL import Image, UnidentifiedImageError  # late, as matplotlib

        out = io.BytesIO()
        try:
            with Image.open(io.BytesIO(self.content)) as picture:
                small = picture.convert("RGB")
        except UnidentifiedImageError:
            return self
        small.thumbnail((width, 10 * width))
        small.save(out, format="PNG", optimize=True)
        return Figure(out.getvalue(), "image/png", self.caption)


@dataclass(frozen=True)
class Curve:
    """A line of `line_figure`."""

    x: Sequence[float | int]
    y: Sequence[float | int]
    spread: Sequence[float | int] | None = None
    """Half-width of the band around it."""
    dashed: bool = False
    """For the thesis' numbers, bounds and chance levels."""


def line_figure(
    curves: Mapping[str, Curve], *, x: str, y: str, title: str = "", log_x: bool = False
) -> Any:
    """Return a matplotlib figure of named curves, with bands where they have a spread.

    Args:
        curves: label to curve; dashed curves are grey, all others take the colours in order.
        x: label of the horizontal axis, with its unit.
        y: label of the vertical axis, with its unit.
        title: above the axes.
        log_x: logarithmic horizontal axis.
    """
    from matplotlib.figure import Figure as Canvas  # not pyplot: it keeps every figure alive

    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axes = canvas.add_subplot()
    for label, curve in curves.items():
        style: dict[str, Any] = {"marker": "o"}
        if curve.dashed:
            style = {"linestyle": "--", "color": "0.45"}
        (line,) = axes.plot(curve.x, curve.y, label=label, markersize=3.5, **style)
        if curve.spread is not None:
            low = [mean - spread for mean, spread in zip(curve.y, curve.spread, strict=True)]
            high = [mean + spread for mean, spread in zip(curve.y, curve.spread, strict=True)]
            axes.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    axes.set(xlabel=x, ylabel=y, title=title, xscale="log" if log_x else "linear")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return canvas
