"""The rules of the house that a program can check: sizes, and options that somebody reads."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from priors_shared.cli import Program
from priors_shared.cli.program import _option_names

MODULES = ("memory_adapt", "hypernet_maml", "hyperfields", "molfeat_diffusion")
LONGEST_MODULE, LONGEST_VERB, LONGEST_FUNCTION = 350, 150, 60
LONGER_FUNCTIONS = {
    "claims, one after the other": {
        "_classification",
        "_few_shot",
        "_ours",
        "_benefits",
        "_ablations",
    },
    "a training: what it sets up, and its loop": {
        "metatrain",
        "train",
        "train_guidance",
        "distil_scores",
    },
    "half of it is what its arguments are": {
        "__init__",
        "load_image_folder",
        "load_molecules",
        "featurize_file",
        "transform",
    },
    "a section of the report, that trains before the reader's eyes": {
        "_live_section",
        "live_section",
    },
}
"""Functions that are longer, by their reason."""


LONGER_VERBS = {
    "packages/memory-adapt/src/memory_adapt/cli/eval.py",
    "packages/hyperfields/src/hyperfields/cli/train.py",
}
"""By a little, as each holds one role."""


def sources(root: Path) -> Iterator[Path]:
    for folder in (root / "shared", *sorted((root / "packages").iterdir())):
        yield from sorted((folder / "src").rglob("*.py"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_module_is_longer_than_a_reader_holds(root: Path) -> None:
    files = list(sources(root))
    verbs = [path for path in files if path.parent.name == "cli" and "shared" not in path.parts]
    long = {path.name: lines_of(path) for path in files if lines_of(path) > LONGEST_MODULE}
    over = {name for path in files for name, length in functions(path) if length > LONGEST_FUNCTION}
    sys.stdout.write(
        f"\n{len(files)} modules, {sum(map(lines_of, files)):,} lines; command lines "
        f"{sum(map(lines_of, verbs)):,}; over {LONGEST_MODULE} lines: {long}; over {LONGEST_FUNCTION}: {over}\n"
    )
    assert over <= set().union(*LONGER_FUNCTIONS.values())
    assert not long, f"over {LONGEST_MODULE} lines: {long}"
    too_long = {p.relative_to(root).as_posix() for p in verbs if lines_of(p) > LONGEST_VERB}
    assert too_long <= LONGER_VERBS


def programs() -> list[Program]:
    return [import_module(f"{module}.cli").PROGRAM for module in MODULES]


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
def test_every_option_is_read_by_somebody(root: Path, program: Program) -> None:
    """Where it is not only defined: an option that no code names can have no effect."""
    package = root / "packages" / program.name / "src"
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in (package, root / "shared" / "src")
        for path in folder.rglob("*.py")
    )
    unread = [
        f"{verb}: {name}"
        for verb in program.verbs
        for name in sorted(_option_names(program._verb(verb)))
        if not re.search(rf"\.{name}\b|[\"']{name}[\"']", text)
    ]
    assert not unread
