"""Result files: an experiment's rows as JSON, with what is needed to repeat it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from priors_shared.environment import source_commit
from priors_shared.errors import UserError
from priors_shared.files import read_json, write_atomically
from priors_shared.reports.tables import Measured

SCHEMA = 1

_RESULT_KEYS = (
    *("experiment", "claim", "rows", "config", "seeds", "data"),
    *("hardware", "command", "thesis", "commit", "date"),
)


def write_result(
    path: Path,
    *,
    experiment: str,
    claim: str,
    rows: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    seeds: Sequence[int],
    data: str | Mapping[str, Any],
    hardware: Mapping[str, Any],
    command: str,
    thesis: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write an experiment's result as JSON with sorted keys, the commit and today's date.

    Args:
        path: the file; its folder is made. NaN and infinity are written as null.
        experiment: such as "table-2.1".
        claim: what the experiment tests, in a sentence.
        rows: column to value; `Measured` values come back from `read_result` as such.
        config: the whole configuration.
        seeds: of the repetitions.
        data: the dataset and split, and where it is from.
        hardware: `priors_shared.devices.hardware()`.
        command: the command line that repeats it.
        thesis: the thesis' numbers, JSON values; best as `comparison_table` takes them.
        extra: further keys: seconds, controls, curves, notes.
    """
    result = {
        "schema": SCHEMA,
        "experiment": experiment,
        "claim": claim,
        "rows": list(rows),
        "config": config,
        "seeds": list(seeds),
        "data": data,
        "hardware": hardware,
        "command": command,
        "thesis": thesis,
        "commit": source_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        **(extra or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(result), indent=2, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """Return what `write_result` wrote, with `Measured` values in the rows.

    Raises:
        UserError: no such file, not a result, or rows that are none.
    """
    try:
        result = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such result file") from None
    missing = [key for key in ("schema", *_RESULT_KEYS) if key not in result]
    if missing:
        raise UserError(f"{path}: not a result file ({', '.join(missing)} missing)")
    if result["schema"] != SCHEMA:
        raise UserError(f"{path}: result schema {result['schema']}, this version reads {SCHEMA}")
    rows = result["rows"]
    if not (isinstance(rows, list) and rows and all(row and isinstance(row, dict) for row in rows)):
        raise UserError(f"{path}: its rows are not a list of named values")
    result["rows"] = [
        {name: _measured_again(value, f"{path}: row {i}, {name}") for name, value in row.items()}
        for i, row in enumerate(rows, start=1)
    ]
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, Measured):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):  # arrays and tensors
        return _plain(value.tolist())
    return str(value)


def _measured_again(value: Any, where: str) -> Any:
    if isinstance(value, dict) and value.keys() == {"mean", "spread", "seeds"}:
        mean, spread, seeds = value["mean"], value["spread"], value["seeds"]
        if not (_is_number(mean, spread) and type(seeds) is int):
            raise UserError(f"{where}: mean, spread and seeds are not numbers")
        return Measured(float("nan") if mean is None else mean, spread, seeds)
    return value


def _is_number(*values: Any) -> bool:
    """Whether each is a number that a float holds, or None: written for what is not finite."""
    return all(
        v is None or type(v) is float or (type(v) is int and v.bit_length() < 1024) for v in values
    )
