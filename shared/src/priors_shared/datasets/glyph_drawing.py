"""Characters of matplotlib's fonts as drawings: rendered, thinned to their skeletons, bent, traced with a thin pen."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt64
from torch import Tensor

from priors_shared.errors import UserError

if TYPE_CHECKING:
    from PIL import ImageFont

SIDE = 28
SUPER = 2  # drawn this much larger, then area-averaged, as Omniglot is reduced from 105 pixels
CANVAS = SIDE * SUPER
INK_ABOVE = 110  # of 255: a little below half keeps hairlines connected
# Regular weights only: the skeleton of a bold letter grows spurs.
FACES = (
    "DejaVuSans.ttf",  # the reference face: it decides which characters look alike
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralItalic.ttf",
)
# Letters, numbers, punctuation, symbols; no marks, spaces, controls or private-use characters.
CATEGORIES = "LNPS"


@dataclass(frozen=True, kw_only=True)
class DrawingStyle:
    """How a character becomes drawings; the defaults match Omniglot's ink, extent and placement.

    Lengths are in pixels of the 28 x 28 image; jitters are standard deviations.
    """

    drawings: int = 20
    faces_at_least: int = 5
    extent: float = 19.0  # longer side of the drawn character
    size_jitter: float = 0.14  # of the logarithm, each axis on its own
    angle: float = 6.0  # degrees
    shear: float = 0.10
    shift: float = 1.3
    bend: float = 0.8  # displacement of each of `bend_knots` x `bend_knots` control points
    bend_knots: int = 5
    pen: float = 1.35  # gain on the traced stroke: higher is thicker
    look_alike: float = 0.93  # cosine of blurred skeletons above which two characters are one
    symmetric: float = 0.8  # the same for a character and its own turn
    stretch: float = 1.4  # both seen with their sides so much nearer to equal: size_jitter's reach
    least_stroke: float = 9.0  # shorter skeletons (dots, dashes) are left out
    seed: int = 0


@dataclass(frozen=True)
class Glyphs:
    """All classes, by code point."""

    code_points: np.ndarray  # (classes,) int64
    images: np.ndarray  # (classes, drawings, 28, 28) uint8
    new_turn: np.ndarray  # (classes, 4) bool: this quarter turn differs from the ones before it


def font_files() -> list[Path]:
    """The files of `FACES` that there are, the reference face first.

    Raises:
        UserError: the reference face is missing.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = [folder / face for face in FACES if (folder / face).is_file()]
    if not found or found[0].name != FACES[0]:
        raise UserError(
            f"matplotlib's font {FACES[0]} not found in {folder}: the glyphs are drawn with it; "
            "reinstall matplotlib (pip install --force-reinstall matplotlib)"
        )
    return found


def draw_glyphs(style: DrawingStyle) -> Glyphs:
    """All glyphs, by code point: render, thin, leave out look-alikes, bend and trace."""
    from matplotlib.ft2font import FT2Font

    files = font_files()
    covered = [set(FT2Font(str(file)).get_charmap()) for file in files]
    in_faces = Counter(code for face in covered for code in face)
    candidates = np.array(
        [
            code
            for code in sorted(covered[0])
            if unicodedata.category(chr(code))[0] in CATEGORIES
            and in_faces[code] >= style.faces_at_least
        ]
    )
    if not len(candidates):
        raise UserError(
            f"no character is in {style.faces_at_least} of the {len(files)} faces: lower "
            "faces_at_least"
        )
    owner, pictures = _render_face(files[0], candidates, style, stretch=style.stretch)
    kept, new_turn = _tell_apart(thin(pictures), style)
    code_points = candidates[owner[kept]]

    owners, skeletons = [], []
    for file, face in zip(files, covered, strict=True):
        here = np.flatnonzero([code in face for code in code_points.tolist()])
        owner, pictures = _render_face(file, code_points[here], style)
        owners.append(here[owner])
        skeletons.append(thin(pictures))
    owner = np.concatenate(owners)
    by_character = np.argsort(owner, kind="stable")
    count = np.bincount(owner)
    # A drawing's face: the character's faces in turn, so that each shows about equally often.
    turn = np.arange(style.drawings) % count[:, None]
    chosen = by_character[(np.cumsum(count) - count)[:, None] + turn]  # (classes, drawings)

    strokes = torch.from_numpy(np.concatenate(skeletons))
    jitter, basis = _jitter(code_points, style), _grid_basis(style)
    images = np.empty((len(kept), style.drawings, SIDE, SIDE), np.uint8)
    for start in range(0, len(kept), 16):  # a few megabytes at a time
        part = slice(start, start + 16)
        drawn = _trace(strokes[chosen[part].ravel()], jitter[part].flatten(0, 1), basis, style)
        images[part] = drawn.numpy().reshape(-1, style.drawings, SIDE, SIDE)
    return Glyphs(code_points, images, new_turn)


def _render_face(
    file: Path, code_points: np.ndarray, style: DrawingStyle, stretch: float = 1.0
) -> tuple[np.ndarray, Bool[np.ndarray, "characters height width"]]:
    """The characters in one face, scaled to `extent` and centred; blank ones are left out.

    stretch: widen narrow ones (and heighten flat ones) up to so many times, up to a square.

    Returns the position in `code_points` of each picture, and the pictures.
    """
    from PIL import ImageFont

    # BASIC layout: the other engine is not in every build of Pillow.
    font = ImageFont.truetype(str(file), CANVAS, layout_engine=ImageFont.Layout.BASIC)
    extent = round(style.extent * SUPER)
    pictures = [_render(font, chr(code), extent, stretch) for code in code_points.tolist()]
    owner = [place for place, picture in enumerate(pictures) if picture is not None]
    visible = [picture for picture in pictures if picture is not None]
    return np.array(owner, int), np.array(visible, bool).reshape(-1, CANVAS, CANVAS)


def _render(
    font: ImageFont.FreeTypeFont, character: str, extent: int, stretch: float
) -> Bool[np.ndarray, "height width"] | None:
    from PIL import Image, ImageDraw

    full = Image.new("L", (4 * CANVAS, 3 * CANVAS))
    ImageDraw.Draw(full).text((CANVAS, CANVAS // 2), character, fill=255, font=font)
    if (box := full.getbbox()) is None:
        return None
    longer = max(box[2] - box[0], box[3] - box[1])
    # Whole characters are scaled to one extent: small caps and capitals become look-alikes.
    width = max(1, round(min(1, stretch * (box[2] - box[0]) / longer) * extent))
    height = max(1, round(min(1, stretch * (box[3] - box[1]) / longer) * extent))
    scaled = full.resize((width, height), Image.Resampling.BILINEAR, box=box)
    picture = np.zeros((CANVAS, CANVAS), bool)
    top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
    picture[top : top + height, left : left + width] = np.asarray(scaled) > INK_ABOVE
    return picture


def thin(ink: Bool[np.ndarray, "items height width"]) -> Bool[np.ndarray, "items height width"]:
    """The one-pixel skeleton of each picture, connected as its ink is (Guo and Hall 1989, A1).

    64 pictures share a machine word, so one bitwise operation works on all of them.
    """
    items, height, width = ink.shape
    skeleton = np.empty_like(ink)
    at_once = 64 * 8  # 8 words a pixel: the planes below stay in the processor's cache
    for start in range(0, items, at_once):
        part = ink[start : start + at_once].transpose(1, 2, 0)
        padded = np.zeros((height + 2, width + 2, at_once), bool)
        padded[1:-1, 1:-1, : part.shape[-1]] = part
        words = np.packbits(padded, axis=-1).view(np.uint64)
        while _peel(words, odd=True) | _peel(words, odd=False):
            pass
        bits = np.unpackbits(words.view(np.uint8), axis=-1)[1:-1, 1:-1, : part.shape[-1]]
        skeleton[start : start + at_once] = bits.transpose(2, 0, 1)
    return skeleton


def _peel(p: UInt64[np.ndarray, "height width words"], odd: bool) -> bool:
    """One sub-iteration, in place: removes border pixels that no connection needs. True if any."""
    # Neighbours clockwise from north, named as in the paper.
    p2, p3, p4, p5 = p[:-2, 1:-1], p[:-2, 2:], p[1:-1, 2:], p[2:, 2:]
    p6, p7, p8, p9 = p[2:, 1:-1], p[2:, :-2], p[1:-1, :-2], p[:-2, :-2]
    a = p3 | p4, p5 | p6, p7 | p8, p9 | p2
    b = p2 | p3, p4 | p5, p6 | p7, p8 | p9
    c = ~p2 & a[0], ~p4 & a[1], ~p6 & a[2], ~p8 & a[3]
    one_component = (c[0] ^ c[1] ^ c[2] ^ c[3]) & ~((c[0] & c[1]) | (c[2] & c[3]))
    # 2 <= min(pairs counted one way, pairs counted the other way) <= 3
    all_pairs = a[0] & a[1] & a[2] & a[3] & b[0] & b[1] & b[2] & b[3]
    not_an_end = _two_of(*a) & _two_of(*b) & ~all_pairs
    side = (p6 | p7 | ~p9) & p8 if odd else (p2 | p3 | ~p5) & p4
    remove = p[1:-1, 1:-1] & one_component & not_an_end & ~side
    p[1:-1, 1:-1] ^= remove
    return bool(remove.any())


def _two_of(w: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (w & x) | (y & z) | ((w | x) & (y | z))


def _tell_apart(
    skeletons: Bool[np.ndarray, "characters height width"], style: DrawingStyle
) -> tuple[np.ndarray, Bool[np.ndarray, "classes turns=4"]]:
    """Characters that differ from each other in every turn, and which turns of each are new.

    Of look-alikes (Latin A, Greek Alpha, Cyrillic A; n and a turned u) the lowest code point stays:
    left in, they would be one shape under two labels, or on two sides of a split.
    """
    soft = torch.from_numpy(skeletons)[:, None].float()
    # Blurred: a stroke that lies a pixel beside another is the same stroke.
    soft = torch.nn.functional.avg_pool2d(soft, 5, stride=1, padding=2)
    soft = torch.nn.functional.avg_pool2d(soft, SUPER)[:, 0]
    soft = soft / soft.norm(dim=(1, 2), keepdim=True)
    turned = [torch.rot90(soft, turn, dims=(1, 2)).flatten(1) for turn in range(3)]
    cosine = [turned[0] @ shapes.T for shapes in turned]
    cosine.append(cosine[1].T)  # a is like b turned thrice where b is like a turned once
    same_shape = (torch.stack(cosine).amax(0) > style.look_alike).numpy()
    stroke = skeletons.sum((1, 2)) / SUPER
    kept: list[int] = []
    taken = np.zeros(len(skeletons), bool)
    for character in np.flatnonzero(stroke >= style.least_stroke):
        if not taken[character]:
            kept.append(int(character))
            taken |= same_shape[character]
    own = [cosine[turn].diagonal().numpy()[kept] > style.symmetric for turn in (1, 2)]
    quarter, half = own
    by_half = ~half & ~quarter
    new_turn = np.stack([np.ones(len(kept), bool), ~quarter, by_half, by_half], axis=1)
    return np.array(kept), new_turn


def _jitter(
    code_points: np.ndarray, style: DrawingStyle
) -> Float[Tensor, "classes drawings jitter"]:
    """Standard normal numbers for every drawing, from the character's own generator."""
    width = 6 + 2 * style.bend_knots**2
    numbers = [
        np.random.default_rng([style.seed, int(code)]).standard_normal((style.drawings, width))
        for code in code_points
    ]
    return torch.from_numpy(np.stack(numbers).astype(np.float32))


def _grid_basis(style: DrawingStyle) -> Float[Tensor, "terms pixels"]:
    """What a sampling point is a sum of, at each pixel of the canvas: x, y, 1, and smooth bumps.

    The bumps (one for each control point) sum to one. Coordinates are grid_sample's: -1 .. 1.
    """
    place = (np.arange(CANVAS) + 0.5) / CANVAS * 2 - 1
    knots = np.linspace(-1, 1, style.bend_knots)
    bump = np.exp(-0.5 * ((place - knots[:, None]) / (0.7 * (knots[1] - knots[0]))) ** 2)
    bump /= bump.sum(0)
    y, x = np.meshgrid(place, place, indexing="ij")
    bumps = np.einsum("ky,lx->klyx", bump, bump).reshape(-1, CANVAS, CANVAS)
    basis = np.concatenate([np.stack([x, y, np.ones_like(x)]), bumps])
    return torch.from_numpy(basis.reshape(len(basis), -1).astype(np.float32))


def _trace(
    skeletons: Bool[Tensor, "items canvas canvas"],
    jitter: Float[Tensor, "items jitter"],
    basis: Float[Tensor, "terms pixels"],
    style: DrawingStyle,
) -> UInt8[Tensor, "items side side"]:
    """The skeletons bent and drawn with the pen."""
    pixel = 2 / SIDE  # in grid_sample's coordinates
    jitter = jitter.clamp(-2.5, 2.5)  # a rare extreme would push ink over the edge
    scale = torch.exp(-style.size_jitter * jitter[:, :2])
    turn, slant = torch.deg2rad(style.angle * jitter[:, 2]), style.shear * jitter[:, 3]
    cos, sin = turn.cos(), turn.sin()
    linear = torch.stack([cos, slant * cos - sin, sin, slant * sin + cos], 1).view(-1, 2, 2)
    offset = style.shift * pixel * jitter[:, 4:6]
    bend = style.bend * pixel * jitter[:, 6:].view(len(jitter), 2, -1)
    terms = torch.cat([linear * scale[:, :, None], offset[:, :, None], bend], dim=2)
    grid = (terms @ basis).view(-1, 2, CANVAS, CANVAS).permute(0, 2, 3, 1)
    bent = torch.nn.functional.grid_sample(
        _three_wide(skeletons)[:, None], grid, mode="bilinear", align_corners=False
    )
    stroke = (bent[:, 0] * style.pen).clamp_(max=1)  # solid, with soft edges
    rows = stroke[:, ::SUPER] + stroke[:, 1::SUPER]
    drawn = (rows[:, :, ::SUPER] + rows[:, :, 1::SUPER]) / SUPER**2  # area average
    return drawn.mul_(255).round_().to(torch.uint8)


def _three_wide(
    skeletons: Bool[Tensor, "items canvas canvas"],
) -> Float[Tensor, "items canvas canvas"]:
    """Each pixel: the sum over its 3 x 3 neighbourhood / 3, so that a straight line peaks at 1."""
    line = torch.nn.functional.pad(skeletons.float(), (1, 1, 1, 1))
    across = line[:, :, :-2] + line[:, :, 1:-1] + line[:, :, 2:]
    return (across[:, :-2] + across[:, 1:-1] + across[:, 2:]) / 3
