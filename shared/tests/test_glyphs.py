"""The embedded default: distinct characters, disjoint splits, the same drawings every time."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from priors_shared.datasets import glyph_drawing, glyphs
from priors_shared.datasets.glyph_drawing import DrawingStyle, thin
from priors_shared.datasets.glyphs import load_glyphs, split_of
from priors_shared.errors import UserError

SMALL = DrawingStyle(drawings=4, faces_at_least=8)
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own, filled once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIORS_CACHE", str(folder))
        load_glyphs("all", style=SMALL)
        yield folder


def test_splits_share_no_character_and_no_picture_in_any_turn(cache):
    names = [set(), set(), set()]
    pictures = [set(), set(), set()]
    for place, split in enumerate(SPLITS):
        dataset = load_glyphs(split, style=SMALL)
        names[place] = {name.partition("@")[0] for name in dataset.class_names}
        pictures[place] = {image.tobytes() for image in dataset.images.numpy()}
        assert len(pictures[place]) == len(dataset)  # nor does a picture come twice within one
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not names[one] & names[two]
        assert not pictures[one] & pictures[two]
    everything = load_glyphs("all", rotations=False, style=SMALL)
    assert set().union(*names) == set(everything.class_names)
    shares = [len(found) / everything.classes for found in names]
    assert shares == pytest.approx([0.64, 0.11, 0.25], abs=0.06)


def test_drawings_look_like_omniglots(cache):
    """Ink, extent and emptiness of Omniglot at 28 x 28: 0.081 of the area, 12 to 24 pixels."""
    images = load_glyphs("all", rotations=False, style=SMALL).images[:, 0].numpy()
    assert images.shape[1:] == (28, 28)
    assert 0.07 < images.mean() / 255 < 0.10
    ink = images > 40
    rows, columns = ink.any(2), ink.any(1)
    extent = np.maximum(
        28 - rows.argmax(1) - rows[:, ::-1].argmax(1),
        28 - columns.argmax(1) - columns[:, ::-1].argmax(1),
    )
    assert ink.any((1, 2)).all()
    assert 17 <= np.median(extent) <= 21
    assert np.percentile(extent, 5) >= 12
    assert (images[:, [0, -1]] > 127).mean() < 0.01  # almost nothing is cut off


def test_classes_differ_more_than_their_drawings(cache):
    """A nearest-neighbour classifier on raw pixels is far above chance, and not perfect."""
    dataset = load_glyphs("train", rotations=False, style=SMALL)
    images = torch.nn.functional.avg_pool2d(dataset.images.float(), 3, stride=2, padding=1)
    images = torch.nn.functional.normalize(images.flatten(1), dim=1)
    shape = images.view(dataset.classes, 4, -1)
    nearest = (shape[:, 0] @ shape[:, 1:].mean(1).T).argmax(1)
    accuracy = float((nearest == torch.arange(dataset.classes)).float().mean())
    assert 0.1 < accuracy < 0.99


def test_look_alikes_of_other_alphabets_are_one_class(cache):
    names = set(load_glyphs("all", rotations=False, style=SMALL).class_names)
    assert {"U+0041", "U+0042"} <= names  # A and B
    assert not {"U+0391", "U+0410", "U+0392", "U+0412"} & names  # Greek and Cyrillic A and B
    assert len({"U+0064", "U+0070"} & names) <= 1  # p is d upside down


def test_turns_of_symmetric_characters_are_not_new_classes(cache):
    names = set(load_glyphs("all", style=SMALL).class_names)
    assert {f"U+0041@{turn}" for turn in (0, 90, 180, 270)} <= names
    for symmetric in ("U+0058", "U+0053", "U+006F", "U+004F", "U+002B"):  # X S o O +
        turns = {name for name in names if name.startswith(f"{symmetric}@")}
        assert f"{symmetric}@180" not in turns
        assert f"{symmetric}@270" not in turns


def test_rotations_turn_the_drawings(cache):
    upright = load_glyphs("val", rotations=False, style=SMALL)
    turned = load_glyphs("val", style=SMALL)
    for place, name in enumerate(turned.class_names):
        base, degrees = name.split("@")
        drawings = upright.images[upright.items_of(upright.class_names.index(base))]
        expected = torch.rot90(drawings, int(degrees) // 90, dims=(2, 3))
        assert torch.equal(turned.images[turned.items_of(place)], expected)


def digest(dataset):
    return hashlib.sha256(dataset.images.numpy().tobytes()).hexdigest()


def test_with_and_without_cache_the_drawings_are_the_same(cache):
    stored = load_glyphs("all", style=SMALL)
    assert len(list(cache.glob("glyphs-*.npz"))) == 1
    assert not list(cache.glob("*.tmp"))
    drawn = load_glyphs("all", style=SMALL, cache=False)
    assert digest(stored) == digest(drawn)
    assert stored.class_names == drawn.class_names


@pytest.fixture
def quick_drawing(monkeypatch):
    """Drawing replaced by a stand-in, for what only concerns the cache."""
    real = glyph_drawing.Glyphs(
        np.array([65, 66]), np.full((2, 4, 28, 28), 9, np.uint8), np.ones((2, 4), bool)
    )
    monkeypatch.setattr(glyphs, "draw_glyphs", lambda style: real)


@pytest.mark.usefixtures("quick_drawing")
def test_a_broken_or_forbidden_cache_only_costs_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIORS_CACHE", str(tmp_path / "new"))
    first = load_glyphs("all", style=SMALL)
    (stored,) = (tmp_path / "new").iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    assert digest(load_glyphs("all", style=SMALL)) == digest(first)
    (tmp_path / "file").write_text("a file, not a folder")
    monkeypatch.setenv("PRIORS_CACHE", str(tmp_path / "file"))
    assert digest(load_glyphs("all", style=SMALL)) == digest(first)


@pytest.mark.usefixtures("quick_drawing")
def test_another_style_has_its_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIORS_CACHE", str(tmp_path))
    load_glyphs("all", style=SMALL)
    load_glyphs("all", style=replace(SMALL, seed=1))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_character_is_drawn_the_same_whatever_others_there_are():
    """Its numbers come from its code point, so that other fonts leave it as it is."""
    few, many = (glyph_drawing._jitter(np.array(codes), SMALL) for codes in ([70], [65, 70, 1000]))
    assert torch.equal(few[0], many[1])
    assert not torch.equal(many[0], many[1])


def test_the_split_of_a_character_never_changes():
    found = {char: split_of(ord(char)) for char in "AZgЖλ∞♞4"}
    assert found == FIXED
    assert split_of(ord("é")) == split_of(ord("e")) == split_of(ord("Ê"))


FIXED = {
    "A": "test", "Z": "test", "g": "train", "Ж": "train", "λ": "train", "∞": "test", "♞": "train",
    "4": "train",
}  # fmt: skip


def thin_slowly(ink):
    """Guo and Hall's conditions written out, pixel by pixel."""
    p = np.pad(ink.astype(int), 1)
    while True:
        changed = False
        for odd in (True, False):
            remove = []
            for y, x in zip(*np.nonzero(p), strict=True):
                p2, p3, p4, p5 = p[y - 1, x], p[y - 1, x + 1], p[y, x + 1], p[y + 1, x + 1]
                p6, p7, p8, p9 = p[y + 1, x], p[y + 1, x - 1], p[y, x - 1], p[y - 1, x - 1]
                c = ((not p2) and (p3 or p4)) + ((not p4) and (p5 or p6))
                c += ((not p6) and (p7 or p8)) + ((not p8) and (p9 or p2))
                n1 = (p9 | p2) + (p3 | p4) + (p5 | p6) + (p7 | p8)
                n2 = (p2 | p3) + (p4 | p5) + (p6 | p7) + (p8 | p9)
                side = (p6 | p7 | (1 - p9)) & p8 if odd else (p2 | p3 | (1 - p5)) & p4
                if c == 1 and 2 <= min(n1, n2) <= 3 and not side:
                    remove.append((y, x))
            for y, x in remove:
                p[y, x] = 0
            changed |= bool(remove)
        if not changed:
            return p[1:-1, 1:-1].astype(bool)


def test_bitwise_thinning_is_guo_and_halls():
    random = np.random.default_rng(0)
    blobs = torch.nn.functional.avg_pool2d(
        torch.from_numpy(random.random((70, 1, 24, 24))), 5, stride=1, padding=2
    )
    ink = (blobs[:, 0] > 0.44).numpy()
    skeletons = thin(ink)
    assert not (skeletons & ~ink).any()
    for place in (0, 1, 37, 63, 64, 69):  # across the border of a machine word
        assert np.array_equal(skeletons[place], thin_slowly(ink[place]))


def test_a_style_that_leaves_nothing_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIORS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="faces_at_least"):
        load_glyphs("train", style=replace(SMALL, faces_at_least=99))
