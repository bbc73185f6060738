from importlib.metadata import entry_points
from pathlib import Path

import pytest

FOLDERS = {
    "priors-shared": "shared",
    "memory-adapt": "packages/memory-adapt",
    "hypernet-maml": "packages/hypernet-maml",
    "hyperfields": "packages/hyperfields",
    "molfeat-diffusion": "packages/molfeat-diffusion",
}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("priors_shared.testing")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def folders(root: Path) -> dict[str, Path]:
    """Folder of each of our distributions, by the distribution's name."""
    return {distribution: root / folder for distribution, folder in FOLDERS.items()}


@pytest.fixture(params=FOLDERS)
def distribution(request: pytest.FixtureRequest) -> str:
    """The name of each of our distributions in turn."""
    return request.param


def our_scripts() -> dict[str, str]:
    """Distribution of each of our console scripts."""
    return {
        script.name: script.dist.name
        for script in entry_points(group="console_scripts")
        if script.dist is not None and script.dist.name in FOLDERS
    }


@pytest.fixture(params=sorted(our_scripts()))
def script(request: pytest.FixtureRequest) -> str:
    """The name of each of our console scripts in turn."""
    return request.param


@pytest.fixture(scope="session")
def scripts() -> dict[str, str]:
    """Distribution of each of our console scripts, by the script's name."""
    return our_scripts()
