"""Features that are kept between calls, in a file of SQLite."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
from torch import nn

from priors_shared.errors import UserError


def digest_of(model: nn.Module) -> str:
    """What tells these weights from others: SHA-256 of their names and bytes."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Features by key in an SQLite file; with no file, nothing is kept.

    Args:
        path: the file; None: none.
        prefix: what all keys depend on: model and options.
        width: numbers of a row of features.
    """

    def __init__(self, path: str | Path | None, prefix: str, *, width: int) -> None:
        self.path = path
        self.prefix = prefix
        self.width = width
        self.connection: sqlite3.Connection | None = None

    def __enter__(self) -> FeatureCache:
        if self.path is not None:
            try:
                self.connection = sqlite3.connect(self.path, timeout=60)
                self.connection.execute(
                    "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB)"
                )
            except sqlite3.Error as error:
                raise UserError(f"{self.path}: not usable as a cache ({error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.connection is not None:
            self.connection.commit()
            self.connection.close()

    def get(self, key: str) -> np.ndarray | None:
        if self.connection is None:
            return None
        found = self._execute("SELECT value FROM features WHERE key = ?", (self._key(key),))
        row = found.fetchone()
        if row is None:
            return None
        if not isinstance(row[0], bytes) or len(row[0]) != 4 * self.width:
            raise UserError(
                f"{self.path}: a row of this cache does not hold {self.width} numbers: it is damaged; use another file"
            )
        return np.frombuffer(row[0], dtype=np.float32)

    def put(self, key: str, value: np.ndarray) -> None:
        if self.connection is not None:
            row = (self._key(key), value.tobytes())
            self._execute("INSERT OR REPLACE INTO features VALUES (?, ?)", row)

    def _execute(self, statement: str, values: tuple[bytes, ...]) -> sqlite3.Cursor:
        assert self.connection is not None
        try:
            return self.connection.execute(statement, values)
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: not usable as a cache ({error})") from None

    def _key(self, key: str) -> bytes:
        return hashlib.sha256(f"{self.prefix}\x1f{key}".encode()).digest()
