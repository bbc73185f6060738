"""What a command writes as JSON, and how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memory_adapt import __version__
from memory_adapt.config import ModelConfig
from priors_shared.cli import command_line


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a command's numbers with the command, version, commit, hardware and date."""
    from memory_adapt.models.registry import config_to_json
    from priors_shared.devices import hardware
    from priors_shared.environment import source_commit
    from priors_shared.files import write_atomically

    def plain(value: object) -> object:
        return config_to_json(value) if isinstance(value, ModelConfig) else str(value)

    record = {
        **values,
        "command": command_line(),
        "version": __version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=2, default=plain) + "\n")
