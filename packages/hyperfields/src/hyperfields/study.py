"""The user study of 4.4.4 (Table 4.2): raters rank what several methods made of the same prompts.

A page that needs no server shows each prompt's images in an order of its own for each rater, and saves a CSV of
ranks. The page knows methods by codes only; a key, which stays with who asks, tells them.
"""

from __future__ import annotations

import base64
import csv
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.reports import Measured
from priors_shared.statistics import mean_confidence_interval

MEDIA: Mapping[str, str] = {
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
}
"""What a scene may be shown as."""
COLUMNS = ("study", "rater", "prompt", "code", "rank", "place")


def write_study(folders: Sequence[Path], page: Path, *, seed: int = 0) -> Path:
    """Write the page for raters, and beside it PAGE.key.json, the key; returns the key's path.

    Args:
        folders: one for each method, named as it; in each an image or video of every prompt, of the same name.
        page: to write, .html.
        seed: of the codes.

    Raises:
        UserError: fewer than two folders, two of one name, no image, or a prompt that a folder lacks.
    """
    names = [folder.resolve().name for folder in folders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"give two folders or more, of different names, one for each method; got {', '.join(names) or 'none'}"
        )
    scenes = {name: _scenes(folder) for name, folder in zip(names, folders, strict=True)}
    prompts = sorted(set().union(*scenes.values()))
    for name, prompt in product(names, prompts):
        if prompt not in scenes[name]:
            other = next(path for found in scenes.values() if (path := found.get(prompt)))
            raise UserError(
                f"{name}: no image of {prompt!r}, which {other} shows: every method needs all prompts"
            )
    draws = random.Random(seed)
    codes = {pair: f"{draws.getrandbits(48):012x}" for pair in product(names, prompts)}
    study = f"{draws.getrandbits(48):012x}"
    asked: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            # By code, an order that says nothing of the method.
            "scenes": sorted(
                (_scene(codes[name, prompt], scenes[name][prompt]) for name in names),
                key=lambda scene: scene["code"],
            ),
        }
        for prompt in prompts
    ]
    # "<" could end the page's script; JSON reads its escape as the same.
    data = json.dumps({"id": study, "prompts": asked}).replace("<", "\\u003c")
    template = files("hyperfields").joinpath("study_page.html").read_text(encoding="utf-8")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, template.replace("STUDY_DATA", data))
    key = page.with_suffix(".key.json")
    known = {code: {"method": name, "prompt": prompt} for (name, prompt), code in codes.items()}
    record = {"study": study, "methods": names, "prompts": prompts, "codes": known}
    write_atomically(key, json.dumps(record, indent=2) + "\n")
    return key


def average_ranks(key: Path, answers: Sequence[Path]) -> list[dict[str, Any]]:
    """Average ranks by prompt and over all, a row for each method, as Table 4.2.

    Args:
        key: what `write_study` wrote.
        answers: CSVs that the page saved, one for each rater.

    Returns: rows with "model", each prompt's mean rank with its spread over raters, "all prompts" likewise
        (over the raters' own means), with half-widths of 95 % intervals where two or more answered.

    Raises:
        UserError: files that are not what they should be, by file and line; a rater who answered twice.
    """
    study = _read_key(key)
    by_rater: dict[str, dict[str, dict[str, int]]] = {}
    came_from: dict[str, Path] = {}
    for path in answers:
        for rater, ranks in _read_answers(path, study).items():
            if rater in by_rater:
                raise UserError(
                    f"{path}: {rater} answered already, in {came_from[rater]}: leave one of the files out"
                )
            by_rater[rater], came_from[rater] = ranks, path
    if not by_rater:
        raise UserError("no answers: give the CSV files that the page saved")
    rows = []
    for method in study["methods"]:
        row: dict[str, Any] = {"model": method}
        for prompt in study["prompts"]:
            row[prompt] = _measured([ranks[prompt][method] for ranks in by_rater.values()])
        means = [
            sum(ranks[prompt][method] for prompt in study["prompts"]) / len(study["prompts"])
            for ranks in by_rater.values()
        ]
        row["all prompts"] = _measured(means)
        rows.append(row)
    return rows


def _measured(ranks: Sequence[float | int]) -> Measured:
    if len(ranks) < 2:
        return Measured.over_seeds(ranks)
    found = mean_confidence_interval([float(rank) for rank in ranks])
    return Measured(found.mean, found.half_width, len(ranks))


def _scenes(folder: Path) -> dict[str, Path]:
    """Images by prompt: the file's name with spaces for hyphens."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in MEDIA and path.stem != "contact_sheet":
            prompt = " ".join(path.stem.replace("-", " ").replace("_", " ").split())
            if prompt in found:
                raise UserError(
                    f"{path}: {found[prompt].name} shows {prompt!r} too: keep one of them"
                )
            found[prompt] = path
    if not found:
        raise UserError(
            f"{folder}: no image or video ({', '.join(MEDIA)}); each is to be named as its prompt"
        )
    return found


def _scene(code: str, path: Path) -> dict[str, Any]:
    kind = MEDIA[path.suffix.lower()]
    data = base64.b64encode(path.read_bytes()).decode()
    return {
        "code": code,
        "source": f"data:{kind};base64,{data}",
        "video": kind.startswith("video"),
    }


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        key = None
    if not _is_key(key):
        raise UserError(
            f"{path}: no key of a study: it is what study wrote beside the page, PAGE.key.json"
        )
    return dict(key)


def _is_key(key: Any) -> bool:
    """Whether it has the parts of a key, of the types that they have, and every code is of a method and prompt."""
    if not isinstance(key, Mapping) or not isinstance(key.get("study"), str):
        return False
    methods: Any
    prompts: Any
    methods, prompts, codes = (key.get(name) for name in ("methods", "prompts", "codes"))
    for names, least in ((methods, 2), (prompts, 1)):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return False
        if len(set(names)) != len(names) or len(names) < least:
            return False
    if not isinstance(codes, Mapping):
        return False
    pairs = [
        (code.get("method"), code.get("prompt")) if isinstance(code, Mapping) else None
        for code in codes.values()
    ]
    wanted = list(product(methods, prompts))
    return len(pairs) == len(wanted) and all(pair in pairs for pair in wanted)


def _read_answers(path: Path, study: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Ranks by rater, prompt and method."""
    found: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: no CSV in UTF-8, as the page saves it") from None
    for number, line in enumerate(lines, start=2):
        at = f"{path}, line {number}"
        if any(line.get(column) is None for column in COLUMNS):
            raise UserError(f"{at}: not the columns {', '.join(COLUMNS)}")
        if line["study"] != study["study"]:
            raise UserError(f"{at}: an answer to another study than the key's")
        known = study["codes"].get(line["code"])
        if known is None or known["prompt"] != line["prompt"]:
            raise UserError(f"{at}: code {line['code']!r} is none of the prompt {line['prompt']!r}")
        ranks = found[line["rater"]][line["prompt"]]
        rank = int(line["rank"]) if line["rank"].isdecimal() and len(line["rank"]) < 9 else 0
        if not 1 <= rank <= len(study["methods"]):
            raise UserError(f"{at}: rank {line['rank']!r} is not from 1 to {len(study['methods'])}")
        if rank in ranks.values() or known["method"] in ranks:
            raise UserError(f"{at}: a rank or an image of {line['prompt']!r} comes twice")
        ranks[known["method"]] = rank
    for rater, by_prompt in found.items():
        for prompt in study["prompts"]:
            if len(by_prompt[prompt]) < len(study["methods"]):
                raise UserError(f"{path}: {rater} did not rank every image of {prompt!r}")
    return found
