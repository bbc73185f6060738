"""Figures take any class name, and go to any kind of file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
