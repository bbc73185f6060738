"""Where and of what code something ran, for the record."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Return Python, platform, hardware, commit and the versions of all installed packages."""
    from priors_shared.devices import hardware  # late: it needs torch

    packages = {d.metadata["Name"]: d.version for d in distributions()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "commit": source_commit(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def source_commit() -> str | None:
    """Return the commit of the repository that this code runs from, None outside of one.

    "-dirty" is appended where tracked files differ from the commit.
    """
    here = Path(__file__)
    # An installed copy may lie in some other repository's folder: it must be tracked there.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            # Else `describe --dirty` may write the index, under a commit that runs meanwhile.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
