"""What a distribution says about itself, and the pins that the checks run with."""

import importlib
import subprocess
import tomllib
from importlib.metadata import entry_points, version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def read_project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def direct_requirements(root: Path, folders: dict[str, Path]) -> list[Requirement]:
    """What our distributions and the development group ask for, our own distributions left out."""
    projects = [read_project(folder) for folder in folders.values()]
    written = chain.from_iterable(
        [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
        for project in projects
    )
    development = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    requirements = [Requirement(line) for line in (*written, *development)]
    return [requirement for requirement in requirements if requirement.name not in folders]


def read_pins(root: Path) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_module_says_the_version_of_its_distribution(
    distribution: str, folders: dict[str, Path]
) -> None:
    module = importlib.import_module(distribution.replace("-", "_"))
    assert module.__version__ == version(distribution)
    assert module.__version__ == read_project(folders[distribution])["version"]


def test_our_own_requirements_are_ranges_that_hold(
    distribution: str, folders: dict[str, Path]
) -> None:
    for line in read_project(folders[distribution])["dependencies"]:
        requirement = Requirement(line)
        if requirement.name in folders:
            assert requirement.name == "priors-shared", "a package needs priors-shared only"
            assert {"<", ">="} <= {part.operator for part in requirement.specifier}
            assert requirement.specifier.contains(version(requirement.name))


def test_distribution_ships_its_types_licence_and_documents(
    distribution: str, folders: dict[str, Path], root: Path
) -> None:
    folder = folders[distribution]
    assert (folder / "src" / distribution.replace("-", "_") / "py.typed").is_file()
    assert (folder / "LICENSE").read_text() == (root / "LICENSE").read_text()
    assert (folder / "README.md").read_text().startswith(f"# {distribution}\n")
    assert "## " in (folder / "CHANGELOG.md").read_text()
    assert read_project(folder)["requires-python"] == ">=3.11"


def test_uv_reads_the_pins_of_the_constraints_file(root: Path) -> None:
    uv = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["uv"]
    pins = [f"{name}=={number}" for name, number in read_pins(root).items()]
    assert uv["constraint-dependencies"] == pins, "`uv run nox -s pin` writes both"


def test_each_direct_requirement_has_a_pin_within_its_range(
    root: Path, folders: dict[str, Path]
) -> None:
    pins = read_pins(root)
    for requirement in direct_requirements(root, folders):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_the_environment_holds_the_pinned_versions(root: Path, folders: dict[str, Path]) -> None:
    pins = read_pins(root)
    for requirement in direct_requirements(root, folders):
        pin = pins[canonicalize_name(requirement.name)]
        # A local build's suffix, as in 2.15.0+cpu, is the same version.
        assert version(requirement.name).partition("+")[0] == pin, "uv sync installs the pins"


def test_lock_files_are_not_tracked(root: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*uv.lock", "*poetry.lock", "*package-lock.json"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert listed.stdout == "", "lock files hold the addresses of one machine's registry"


def test_everything_registered_to_be_reproduced_can_be_called(folders: dict[str, Path]) -> None:
    registered = entry_points(group="priors.reproduce")
    assert {point.name for point in registered} <= folders.keys()
    assert "memory-adapt" in registered.names
    assert all(callable(point.load()) for point in registered)
