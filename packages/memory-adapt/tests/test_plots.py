"""Figures take any class name, and go to any kind of file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import fontManager, get_font
from PIL import Image

from memory_adapt.data.fonts import fonts_with
from memory_adapt.plots import check_figure_path, save_figure, shots_figure, stream_figure
from priors_shared.errors import UserError

CURVES = {"accuracy": ([0.5, 0.9], [0.4, 0.8], [0.6, 1.0])}


@pytest.mark.parametrize("name", ["a\nb", "$\\frac$", "$x", "\u6f22\u5b57", "\udcff", "\x00"])
def test_any_class_name_is_drawn_without_a_word(name: str, tmp_path: Path) -> None:
    images = np.zeros((2, 1, 8, 8), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = stream_figure(images, [name, "b"], ["b", name], [True, False], title=name)
        save_figure(figure, tmp_path / "strip.png")
    below = figure.axes[0].get_xlabel()
    assert below.count("\n") == 1  # what was predicted, and what it is


def test_letters_of_other_scripts_are_drawn_with_a_font_that_has_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of fonts that come with matplotlib: letters in STIX that DejaVu Sans lacks."""
    usual, stix = (
        get_font(fontManager.findfont(name)).get_charmap()
        for name in ("DejaVu Sans", "STIXGeneral")
    )
    letter = next(chr(c) for c in sorted(set(stix) - set(usual)) if chr(c).isprintable())
    names, lacking = fonts_with({"a", letter, "\U000e0041"})
    assert names
    assert not lacking  # what is not printable is a box already
    figure = shots_figure(CURVES, ways=2, title=letter)
    save_figure(figure, tmp_path / "shots.png")
    assert figure.axes[0].title.get_fontfamily()[-1] == names[-1]
    assert not caplog.messages


def test_letters_that_no_font_has_are_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rare = "\U0001218f\U00012190"  # signs of cuneiform
    names, lacking = fonts_with(rare)
    if not lacking:
        pytest.skip(f"{names} have them")
    save_figure(shots_figure(CURVES, ways=2, title=rare), tmp_path / "rare.png")
    (line,) = caplog.messages
    assert f"boxes stand for {rare}, which no font here has" in line


def test_a_figure_goes_where_it_is_told(tmp_path: Path) -> None:
    figure = shots_figure(CURVES, ways=2)
    save_figure(figure, Path("/dev/null"))
    assert not Path("/dev/null.png").exists()
    save_figure(figure, tmp_path / "new" / "without ending")
    with Image.open(tmp_path / "new" / "without ending") as image:
        assert image.format == "PNG"
    check_figure_path(tmp_path / "shots.svg")
    with pytest.raises(UserError, match=r"plot .*no such image format"):
        check_figure_path(tmp_path / "shots.foo")
