"""Numbers with their spread, and tables of them: Markdown, CSV, ours beside the thesis'."""

import csv
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from priors_shared.errors import UserError

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Measured:
    """A number of ours: mean over seeds, with its spread."""

    mean: float | int
    spread: float | int | None = None
    """Standard deviation over seeds, or the half-width of an interval; None with one seed."""
    seeds: int = 1

    @classmethod
    def over_seeds(cls, values: Sequence[float | int]) -> "Measured":
        """Return the mean and sample standard deviation of one value per seed."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))


Cell = Measured | str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns; a cell that is None or NaN shows as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    digits: int = 1
    """Decimals of floats."""

    def __post_init__(self) -> None:
        """Refuse a row that does not fit the columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {row!r} has {len(row)} cells, not {len(self.columns)}")

    def to_markdown(self) -> str:
        """Return the table as GitHub Markdown, the caption below it."""
        lines = [self.columns, *([cell_text(c, self.digits) for c in r] for r in self.rows)]
        cells = [[escape_markdown(cell).replace("|", r"\|") for cell in line] for line in lines]
        cells.insert(1, ["---:" if right else "---" for right in self.numeric()])
        text = "".join(f"| {' | '.join(line)} |\n" for line in cells)
        return text + (f"\n{escape_markdown(self.caption)}\n" if self.caption else "")

    def to_csv(self) -> str:
        """Return the table as CSV at full precision; `Measured` cells take three columns."""
        wide = [
            any(isinstance(row[column], Measured) for row in self.rows)
            for column in range(len(self.columns))
        ]
        header: list[str] = []
        for name, is_wide in zip(self.columns, wide, strict=True):
            header += [name, f"{name} spread", f"{name} seeds"] if is_wide else [name]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for row in self.rows:
            values: list[object] = []
            for cell, is_wide in zip(row, wide, strict=True):
                if isinstance(cell, Measured):
                    values += [cell.mean, cell.spread, cell.seeds]
                else:
                    values += [cell, None, None] if is_wide else [cell]
            writer.writerow(["" if value is None else value for value in values])
        return out.getvalue()

    def numeric(self) -> list[bool]:
        """Return which columns hold numbers only, to align them right."""

        def is_number(cell: Cell) -> bool:
            return cell is None or isinstance(cell, Measured | int | float)

        return [
            any(row[i] is not None for row in self.rows) and all(is_number(r[i]) for r in self.rows)
            for i in range(len(self.columns))
        ]


def comparison_table(
    rows: Sequence[Mapping[str, Cell]],
    thesis: Mapping[str, Mapping[str, Cell]],
    *,
    caption: str = "",
    digits: int = 1,
) -> Table:
    """Return our numbers with the thesis' beside them, in a column of their own.

    Args:
        rows: column to cell; the column "model", else the first, names the row. What a row lacks stays empty.
        thesis: the row's name to column to number. A column without any number of the thesis'
            gets no second column; a row that only the thesis has is added.
        caption: shown at the table.
        digits: decimals of floats.
    """
    # Rows of a result file come with their columns sorted.
    key = "model" if not rows or "model" in rows[0] else next(iter(rows[0]))
    if nameless := [row for row in rows if key not in row]:
        raise UserError(f"rows: {dict(nameless[0])} has no {key!r}, which names a row")
    measures = dict.fromkeys(name for row in rows for name in row if name != key)
    columns, shown = [key], []
    for name in measures:
        shown.append((name, any(name in numbers for numbers in thesis.values())))
        columns += [name, f"{name} (thesis)"] if shown[-1][1] else [name]
    # Two rows of one name both show.
    named: list[tuple[str, Mapping[str, Cell]]] = [(str(row[key]), row) for row in rows]
    named += [(label, {}) for label in thesis if label not in dict(named)]
    table: list[list[Cell]] = []
    for label, row in named:
        line: list[Cell] = [label]
        for name, has_thesis in shown:
            line.append(row.get(name))
            if has_thesis:
                line.append(thesis.get(label, {}).get(name))
        table.append(line)
    return Table(columns, table, caption, digits)


def escape_markdown(text: str) -> str:
    """Return text as one line of Markdown that shows it as typed: no markup, link or HTML.

    Underscores inside of words stay, as they mark nothing up.
    """
    line = " ".join(_UNPRINTABLE.sub(" ", text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    # At its begin: headings, list items, rules and underlines; at its end: what closes a heading.
    line = re.sub(r"^(\d{0,9})(?=#+( |$)|[+-]( |$)|[.)]( |$)|-+$|=+$)", r"\1\\", line)
    return re.sub(r"(?<= )(?=#+$)", r"\\", line)


def cell_text(cell: Cell, digits: int) -> str:
    """Return what a reader sees of a cell."""
    if isinstance(cell, Measured):
        return measured_text(cell, digits) + seeds_text(cell)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)


def measured_text(cell: Measured, digits: int) -> str:
    """Return mean and spread."""
    if math.isnan(cell.mean):
        return "–"
    spread = "" if cell.spread is None else f" ± {cell.spread:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}"


def seeds_text(cell: Measured) -> str:
    """Return the number of seeds, in brackets."""
    return "" if math.isnan(cell.mean) else f" ({cell.seeds} seed{'s' * (cell.seeds != 1)})"
