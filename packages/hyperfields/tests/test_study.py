"""The user study: a page that does not tell the methods, ranks that are averaged right, bad answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from hyperfields.cli import main
from hyperfields.study import COLUMNS, average_ranks, write_study
from priors_shared.errors import UserError


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two methods' images of two prompts."""
    for number, method in enumerate(("ours", "baseline")):
        folder = tmp_path / method
        folder.mkdir()
        image = Image.new("RGB", (4, 4), (40 * number, 0, 0))
        image.save(folder / "a-red-chair.png")
        image.save(folder / "a_blue_mug.gif")
        image.save(folder / "contact_sheet.png")
    return [tmp_path / "ours", tmp_path / "baseline"]


def answers(key: Path, path: Path, ranks: dict[str, tuple[int, int]], rater: str = "R, 1") -> Path:
    """A rater's file: each prompt's ranks of ours and the baseline."""
    study = json.loads(key.read_text())
    lines = [
        [
            study["study"],
            rater,
            scene["prompt"],
            code,
            ranks[scene["prompt"]][("ours", "baseline").index(scene["method"])],
            1,
        ]
        for code, scene in study["codes"].items()
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    return path


def test_the_page_holds_all_images_and_no_method(folders: list[Path], tmp_path: Path) -> None:
    key = write_study(folders, tmp_path / "page.html", seed=3)
    page = (tmp_path / "page.html").read_text()
    for word in ("ours", "baseline"):
        assert word not in page.split('type="application/json">')[1].split("</script>")[0]
    assert page.count("data:image/") == 4
    codes = json.loads(key.read_text())["codes"]
    assert len(codes) == 4
    assert all(code in page for code in codes)
    # Scenes stand in the order of their codes: over seeds, each method is first at times.
    first = set()
    for seed in range(12):
        key = write_study(folders, tmp_path / "page.html", seed=seed)
        study = json.loads(key.read_text())
        of_chair = sorted(c for c, s in study["codes"].items() if s["prompt"] == "a red chair")
        first.add(study["codes"][of_chair[0]]["method"])
    assert first == {"ours", "baseline"}


def test_a_prompt_cannot_end_the_script(folders: list[Path], tmp_path: Path) -> None:
    for folder in folders:
        (folder / "a-red-chair.png").rename(folder / "<script>.png")
    write_study(folders, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    data = page.split('type="application/json">')[1].split("</script>")[0]
    assert {p["prompt"] for p in json.loads(data)["prompts"]} == {"<script>", "a blue mug"}


def test_ranks_are_averaged_by_method(folders: list[Path], tmp_path: Path) -> None:
    key = write_study(folders, tmp_path / "page.html")
    ours_best, ours_worst = (1, 2), (2, 1)
    files = [
        answers(key, tmp_path / "1.csv", {"a red chair": ours_best, "a blue mug": ours_best}, "1"),
        answers(key, tmp_path / "2.csv", {"a red chair": ours_best, "a blue mug": ours_worst}, "2"),
        answers(key, tmp_path / "3.csv", {"a red chair": ours_best, "a blue mug": ours_worst}, "3"),
    ]
    ours, baseline = average_ranks(key, files)
    assert (ours["model"], baseline["model"]) == ("ours", "baseline")
    assert ours["a red chair"].mean == 1
    assert ours["a blue mug"].mean == pytest.approx(5 / 3)
    assert baseline["all prompts"].mean == pytest.approx(3 - 4 / 3)
    assert ours["all prompts"].seeds == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "did not rank every image"),
        (lambda lines: [*lines, lines[-1]], "line 6: a rank or an image"),
        (lambda lines: [lines[0].replace("rank", "mark"), *lines[1:]], "line 2: not the columns"),
        (lambda lines: [lines[0], "f00" + lines[1][3:], *lines[2:]], "another study"),
        (lambda lines: [lines[0], lines[1][:-3] + "7,1", *lines[2:]], "line 2: rank '7'"),
    ],
)
def test_bad_answers_are_named(folders: list[Path], tmp_path: Path, change, said: str) -> None:
    key = write_study(folders, tmp_path / "page.html")
    file = answers(key, tmp_path / "1.csv", {"a red chair": (1, 2), "a blue mug": (2, 1)})
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=said):
        average_ranks(key, [file])


def test_a_rater_counts_once(folders: list[Path], tmp_path: Path) -> None:
    key = write_study(folders, tmp_path / "page.html")
    ranks = {"a red chair": (1, 2), "a blue mug": (2, 1)}
    files = [answers(key, tmp_path / f"{n}.csv", ranks) for n in (1, 2)]
    with pytest.raises(UserError, match="answered already"):
        average_ranks(key, files)


def test_the_commands(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "study" / "page.html"
    main(["study", *map(str, folders), "-o", str(page)])
    key = page.with_suffix(".key.json")
    file = answers(key, tmp_path / "1.csv", {"a red chair": (1, 2), "a blue mug": (1, 2)})
    main(["ranks", str(key), str(file), "--out", str(tmp_path / "ranks.json")])
    assert "1.00" in capsys.readouterr().out
    rows = json.loads((tmp_path / "ranks.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["ours", "baseline"]
    (folders[0] / "a-red-chair.png").unlink()
    for arguments, said in (
        (["study", str(folders[0])], "two folders or more"),
        (["study", *map(str, folders)], "ours: no image of 'a red chair'"),
        (["study", *map(str, folders), "-o", "page.pdf"], "must end in .html"),
        (["study", str(folders[0]), str(tmp_path / "nowhere")], "no such folder"),
        (["ranks", str(file)], "no key of a study"),
        (["ranks", str(key)], "no answers"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_keys_and_answers_that_were_edited_are_one_line(
    folders: list[Path], tmp_path: Path
) -> None:
    key = write_study(folders, tmp_path / "page.html")
    ranks = {"a red chair": (1, 2), "a blue mug": (1, 2)}
    file = answers(key, tmp_path / "answers.csv", ranks)
    study = json.loads(key.read_text())
    some = next(iter(study["codes"]))
    for change in (
        {"methods": "ours"},
        {"methods": ["ours", "ours"]},
        {"methods": [1, 2]},
        {"prompts": {"a": 1}},
        {"codes": []},
        {"codes": {**study["codes"], some: 3}},
        {"codes": {**study["codes"], some: {"method": "ours"}}},
        {"codes": {**study["codes"], some: {"method": "theirs", "prompt": "a red chair"}}},
        {"study": 3},
    ):
        key.write_text(json.dumps(study | change))
        with pytest.raises(UserError, match="no key of a study"):
            average_ranks(key, [file])
    key.write_text("[" * 100_000)
    with pytest.raises(UserError, match="no key of a study"):
        average_ranks(key, [file])
    key.write_text(json.dumps(study))
    text = file.read_text()
    for wrong in ("9" * 5000, "\u0663", "-1", "1.0", "nan", ""):
        file.write_text(
            text.replace(",1,1\n", f",{wrong},1\n").replace(",1,1\r\n", f",{wrong},1\r\n")
        )
        with pytest.raises(UserError) as error:
            average_ranks(key, [file])
        assert "\n" not in str(error.value)
    file.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError):
        average_ranks(key, [file])
