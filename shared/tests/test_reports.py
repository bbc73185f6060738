"""Reports: numbers shown right, results that return, pages that hold all they show."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from priors_shared.errors import UserError
from priors_shared.reports import (
    Cell,
    Code,
    Curve,
    Figure,
    Links,
    Measured,
    Section,
    Table,
    Verdict,
    comparison_table,
    line_figure,
    read_result,
    write_html,
    write_result,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results"
EVIL = '<script>alert("x")</script> & </style>'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags close in order; gathers tags, text and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(tmp_path: Path, *sections: Section, **options: Any) -> Page:
    write_html(tmp_path / "out" / "index.html", "Report", sections, **options)
    return Page((tmp_path / "out" / "index.html").read_text())


def test_mean_and_spread_over_seeds() -> None:
    assert Measured.over_seeds([1.0, 2.0, 6.0]) == Measured(3.0, 7**0.5, 3)
    assert Measured.over_seeds([4]) == Measured(4, None, 1)


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (Measured(92.84, 0.36, 3), "92.8 ± 0.4 (3 seeds)"),
        (Measured(92.84), "92.8 (1 seed)"),
        (Measured(float("nan")), "–"),
        (float("nan"), "–"),
        (None, "–"),
        (0.05, "0.1"),
        (7, "7"),
        ("a|b", r"a\|b"),
    ],
)
def test_cells_of_markdown(cell: Cell, shown: str) -> None:
    text = Table(["x"], [[cell]], "What it shows.").to_markdown()
    header, _, row, _, caption = text.splitlines()
    assert (header, row, caption) == ("| x |", f"| {shown} |", "What it shows.")


def test_numbers_align_right() -> None:
    table = Table(["a", "b", "c"], [["x", 1, None], ["y", Measured(2.0), None]])
    assert table.to_markdown().splitlines()[1] == "| --- | ---: | --- |"


def test_row_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="has 1 cells, not 2"):
        Table(["a", "b"], [["x"]])


def test_csv_keeps_full_precision() -> None:
    table = Table(["model", "1-shot"], [["a, b", Measured(1 / 3, 0.1, 2)], ["c", 2.5]])
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows == [
        ["model", "1-shot", "1-shot spread", "1-shot seeds"],
        ["a, b", repr(1 / 3), "0.1", "2"],
        ["c", "2.5", "", ""],
    ]


def test_thesis_stands_beside_our_numbers() -> None:
    rows = [
        {"model": "CL+LSTM", "1-shot": Measured(93.0, 0.5, 3), "seconds": 12},
        {"model": "OPN", "1-shot": Measured(95.0), "seconds": 3},
    ]
    thesis = {"CL+LSTM": {"1-shot": 94.2}, "MAML": {"1-shot": 90.0}}
    table = comparison_table(rows, thesis, caption="x")
    assert table.columns == ["model", "1-shot", "1-shot (thesis)", "seconds"]
    assert table.rows == [
        ["CL+LSTM", Measured(93.0, 0.5, 3), 94.2, 12],
        ["OPN", Measured(95.0), None, 3],
        ["MAML", None, 90.0, None],
    ]


def test_rows_read_again_are_named_by_their_model_and_may_lack_columns(tmp_path: Path) -> None:
    rows = [{"model": "ours", "PSNR": Measured(29.0)}, {"model": "exact", "SSIM": 1.0}]
    sorted_rows = [dict(sorted(row.items())) for row in rows]  # as result files hold them
    table = comparison_table(sorted_rows, {"ours": {"SSIM": 0.6}})
    assert table.columns == ["model", "PSNR", "SSIM", "SSIM (thesis)"]
    assert table.rows == [["ours", Measured(29.0), None, 0.6], ["exact", None, 1.0, None]]


def test_rows_of_one_name_all_show_and_no_rows_are_a_table() -> None:
    rows: list[dict[str, Cell]] = [{"model": "a", "x": 1.0}, {"model": "a", "x": 2.0}]
    assert comparison_table(rows, {"a": {"x": 3.0}}).rows == [["a", 1.0, 3.0], ["a", 2.0, 3.0]]
    assert comparison_table([], {"a": {"x": 3.0}}).rows == [["a"]]
    with pytest.raises(UserError, match=r"rows: .*'y': 2.*no 'model', which names a row"):
        comparison_table([rows[0], {"y": 2}], {})


def test_page_escapes_all_text(tmp_path: Path) -> None:
    section = Section(
        EVIL,
        [
            EVIL,
            Table([EVIL], [[EVIL]], EVIL),
            Figure(b"png", "image/png", EVIL),
            Verdict(True, EVIL),
            Code(EVIL),
            Section(EVIL, [EVIL]),
        ],
    )
    found = page(tmp_path, section, Section("second"), facts={EVIL: EVIL})
    assert "script" not in found.tags
    # Title, paragraph, caption, head, cell, figcaption, claim, code, subsection and its text,
    # the card's title and words, both sides of a fact.
    assert found.text.count(EVIL) == 14
    assert ("alt", EVIL) in found.attributes


def test_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    figure = Figure.from_matplotlib(line_figure({"a": Curve([0, 1], [1, 2])}, x="x", y="y"))
    page_ = page(tmp_path, Section("one", [figure]), Section("one", ["text"]))
    loaded = [value for name, value in page_.attributes if name in ("src", "href")]
    assert all(value.startswith(("data:image/", "#")) for value in loaded)
    source = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r"https?://|@import|url\(", source)


def test_contents_lead_to_each_section(tmp_path: Path) -> None:
    sub = Section("detail", [Verdict(False, "not so")])
    found = page(tmp_path, Section("Same", [Verdict(None, "?"), sub]), Section("Same"))
    links = [value.removeprefix("#") for name, value in found.attributes if name == "href"]
    assert len(set(links)) == 2
    assert links == [value for name, value in found.attributes if name == "id"]
    assert found.text.count("✗ does not hold") == 1


def test_folded_sections_show_their_title_and_hold_the_rest(tmp_path: Path) -> None:
    links = Links(["a b/x.png"])
    found = page(tmp_path, Section("one", [Section("more", ["text", links], folded=True)]))
    assert {"details", "summary"} <= set(found.tags)
    assert "text" in found.text
    assert ("href", "a%20b/x.png") in found.attributes


def test_section_cannot_show_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"int|section"):
        page(tmp_path, Section("x", [3]))  # type: ignore[list-item]


def test_figures_are_reproducible() -> None:
    def draw() -> Figure:
        curves = {"ours": Curve([0, 1], [0.2, 0.9], [0.1, 0.05]), "thesis": Curve([0, 1], [0, 1])}
        return Figure.from_matplotlib(line_figure(curves, x="shots", y="accuracy", title="t"), "c")

    assert draw() == draw()
    assert draw().content.startswith(b"<?xml")
    assert draw().media_type == "image/svg+xml"


def test_figures_from_files(tmp_path: Path) -> None:
    figure = Figure.from_matplotlib(line_figure({"a": Curve([1], [1])}, x="", y=""), format="png")
    (tmp_path / "a.PNG").write_bytes(figure.content)
    assert Figure.from_file(tmp_path / "a.PNG", "c") == Figure(figure.content, "image/png", "c")
    with pytest.raises(UserError, match="not a picture"):
        Figure.from_file(tmp_path / "a.txt")


RESULT: dict[str, Any] = {
    "experiment": "table-2.1",
    "claim": "CL+LSTM learns from late labels.",
    "rows": [{"model": "CL+LSTM", "1-shot": Measured(92.8, 0.4, 3), "blind": 31.0, "note": None}],
    "config": {"width": 32, "shots": (1, 5)},
    "seeds": [0, 1, 2],
    "data": {"name": "glyphs"},
    "hardware": {"cpu": "x"},
    "command": "memory-adapt reproduce table-2.1",
    "thesis": {"CL+LSTM": {"1-shot": 94.2}},
}


def test_result_returns(tmp_path: Path) -> None:
    path = tmp_path / "results" / "table-2.1.json"
    write_result(path, **RESULT, extra={"seconds": 3.5})
    result = read_result(path)
    assert {key: result[key] for key in RESULT} == {
        **RESULT,
        "config": {"width": 32, "shots": [1, 5]},
    }
    assert result["seconds"] == 3.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    assert "commit" in result
    raw = json.loads(path.read_text())
    assert list(raw) == sorted(raw)


def test_result_is_strict_json(tmp_path: Path) -> None:
    import torch

    rows = [{"a": float("nan"), "b": Measured(float("nan")), "c": torch.ones(2), "d": Path("x")}]
    write_result(tmp_path / "r.json", **{**RESULT, "rows": rows})
    assert "NaN" not in (tmp_path / "r.json").read_text()
    (row,) = read_result(tmp_path / "r.json")["rows"]
    assert repr(row.pop("b")) == "Measured(mean=nan, spread=None, seeds=1)"
    assert row == {"a": None, "c": [1.0, 1.0], "d": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such result file"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": 1, "rows": []}', "not a result file .*claim"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=rf"r\.json: {message}"):
        read_result(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (3, "rows are not a list of named values"),
        ([], "rows are not a list"),
        ({"model": "a"}, "rows are not a list"),
        (["a"], "rows are not a list"),
        ([{"model": "a"}, None], "rows are not a list"),
        ([{}], "rows are not a list"),
        ([{"x": {"mean": "1", "spread": None, "seeds": 1}}], "row 1, x: mean, spread and seeds"),
        ([{"x": {"mean": 1, "spread": [2], "seeds": 1}}], "row 1, x: mean, spread and seeds"),
        ([{"x": {"mean": 1, "spread": 2, "seeds": None}}], "row 1, x: mean, spread and seeds"),
        ([{"x": {"mean": True, "spread": 2, "seeds": 1}}], "row 1, x: mean, spread and seeds"),
        ([{"x": {"mean": 10**400, "spread": 2, "seeds": 1}}], "row 1, x: mean, spread and seeds"),
    ],
)
def test_odd_rows_are_one_line(tmp_path: Path, rows: Any, message: str) -> None:
    path = tmp_path / "r.json"
    write_result(path, **RESULT)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": rows}))
    with pytest.raises(UserError, match=rf"r\.json: .*{message}") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not RESULTS.is_dir(), reason="tested outside of the repository")
def test_every_stored_result_can_be_read() -> None:
    stored = [path for path in RESULTS.glob("*.json") if "rows" in json.loads(path.read_text())]
    assert len(stored) > 40
    for path in stored:
        assert all(read_result(path)["rows"]), path


def test_result_of_another_schema_is_named(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", **RESULT, extra={"schema": 2})
    with pytest.raises(UserError, match="result schema 2, this version reads 1"):
        read_result(tmp_path / "r.json")


def test_a_cards_picture_is_small_and_what_is_no_bitmap_stays() -> None:
    content = io.BytesIO()
    Image.effect_noise((1500, 900), 60).save(content, format="PNG")
    whole = Figure(content.getvalue(), "image/png", "noise")
    small = whole.thumbnail(480)
    assert Image.open(io.BytesIO(small.content)).size == (480, 288)
    assert (small.caption, small.media_type) == ("noise", "image/png")
    assert len(small.content) < len(whole.content) / 2
    drawing = Figure(b"<svg/>", "image/svg+xml")
    assert drawing.thumbnail(480) is drawing
