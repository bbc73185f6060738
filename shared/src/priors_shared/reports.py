"""From an experiment's rows to what a reader sees: result JSON, Markdown, CSV, figures, HTML.

Our numbers stand beside the thesis'. A page is one file: no script, nothing loaded from elsewhere.
"""

import base64
import csv
import html
import io
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from priors_shared.errors import UserError
from priors_shared.runs import Savable, source_commit, write_atomically

SCHEMA = 1


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
        lines = [self.columns, ["---:" if right else "---" for right in self._numeric()]]
        lines += [[_cell_text(cell, self.digits) for cell in row] for row in self.rows]
        escaped = [[cell.replace("|", r"\|").replace("\n", " ") for cell in r] for r in lines]
        text = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
        return text + (f"\n{self.caption}\n" if self.caption else "")

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

    def _numeric(self) -> list[bool]:
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
    key = "model" if "model" in rows[0] else next(iter(rows[0]))
    measures = dict.fromkeys(name for row in rows for name in row if name != key)
    columns, shown = [key], []
    for name in measures:
        shown.append((name, any(name in numbers for numbers in thesis.values())))
        columns += [name, f"{name} (thesis)"] if shown[-1][1] else [name]
    ours = {str(row[key]): row for row in rows}
    table: list[list[Cell]] = []
    for label in [*ours, *(label for label in thesis if label not in ours)]:
        line: list[Cell] = [label]
        for name, has_thesis in shown:
            line.append(ours.get(label, {}).get(name))
            if has_thesis:
                line.append(thesis.get(label, {}).get(name))
        table.append(line)
    return Table(columns, table, caption, digits)


@dataclass(frozen=True)
class Figure:
    """A picture that the page holds in itself."""

    content: bytes
    media_type: str
    """Such as "image/png"."""
    caption: str = ""

    @classmethod
    def from_matplotlib(
        cls, figure: Savable, caption: str = "", *, format: str = "svg"
    ) -> "Figure":
        """Render a matplotlib figure to "svg", or to "png" where it holds many points."""
        from matplotlib import rc_context  # late: it takes half a second

        out = io.BytesIO()
        # Without date and with fixed ids, the same figure is the same bytes.
        with rc_context({"svg.hashsalt": "priors"}):
            metadata = {"Date": None} if format == "svg" else None
            figure.savefig(out, format=format, dpi=150, bbox_inches="tight", metadata=metadata)
        return cls(out.getvalue(), "image/svg+xml" if format == "svg" else "image/png", caption)

    @classmethod
    def from_file(cls, path: Path, caption: str = "") -> "Figure":
        """Take a PNG, JPEG, GIF, WebP or SVG file.

        Raises:
            UserError: another kind of file.
        """
        types = {".jpg": "jpeg", ".svg": "svg+xml"} | {
            f".{name}": name for name in ("png", "jpeg", "gif", "webp")
        }
        if path.suffix.lower() not in types:
            raise UserError(f"{path}: not a picture (give {', '.join(sorted(types))})")
        return cls(path.read_bytes(), f"image/{types[path.suffix.lower()]}", caption)


@dataclass(frozen=True)
class Verdict:
    """What an experiment says about a claim of the thesis."""

    holds: bool | None
    """None: this run cannot tell, for instance at its small scale."""
    claim: str


@dataclass(frozen=True)
class Code:
    """Text shown as typed, such as the command that repeats an experiment."""

    text: str


@dataclass(frozen=True)
class Section:
    """A titled part of a page; strings are paragraphs, sections within it are subsections."""

    title: str
    parts: Sequence["str | Table | Figure | Verdict | Code | Section"] = field(default_factory=list)

    def verdicts(self) -> list[Verdict]:
        """Return all verdicts in it and its subsections, in order."""
        found: list[Verdict] = []
        for part in self.parts:
            if isinstance(part, Verdict):
                found.append(part)
            elif isinstance(part, Section):
                found += part.verdicts()
        return found


@dataclass(frozen=True)
class Curve:
    """A line of `line_figure`."""

    x: Sequence[float | int]
    y: Sequence[float | int]
    spread: Sequence[float | int] | None = None
    """Half-width of the band around it."""
    dashed: bool = False
    """For the thesis' numbers, bounds and chance levels."""


def line_figure(
    curves: Mapping[str, Curve], *, x: str, y: str, title: str = "", log_x: bool = False
) -> Any:
    """Return a matplotlib figure of named curves, with bands where they have a spread.

    Args:
        curves: label to curve; dashed curves are grey, all others take the colours in order.
        x: label of the horizontal axis, with its unit.
        y: label of the vertical axis, with its unit.
        title: above the axes.
        log_x: logarithmic horizontal axis.
    """
    from matplotlib.figure import Figure as Canvas  # not pyplot: it keeps every figure alive

    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axes = canvas.add_subplot()
    for label, curve in curves.items():
        style: dict[str, Any] = {"marker": "o"}
        if curve.dashed:
            style = {"linestyle": "--", "color": "0.45"}
        (line,) = axes.plot(curve.x, curve.y, label=label, markersize=3.5, **style)
        if curve.spread is not None:
            low = [mean - spread for mean, spread in zip(curve.y, curve.spread, strict=True)]
            high = [mean + spread for mean, spread in zip(curve.y, curve.spread, strict=True)]
            axes.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    axes.set(xlabel=x, ylabel=y, title=title, xscale="log" if log_x else "linear")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return canvas


# --- result files ---

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
        UserError: no such file, or not a result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such result file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    missing = (
        [key for key in ("schema", *_RESULT_KEYS) if key not in result]
        if isinstance(result, dict)
        else ["schema"]
    )
    if missing:
        raise UserError(f"{path}: not a result file ({', '.join(missing)} missing)")
    if result["schema"] != SCHEMA:
        raise UserError(f"{path}: result schema {result['schema']}, this version reads {SCHEMA}")
    result["rows"] = [
        {name: _measured_again(value) for name, value in row.items()} for row in result["rows"]
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


def _measured_again(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"mean", "spread", "seeds"}:
        mean = float("nan") if value["mean"] is None else value["mean"]
        return Measured(mean, value["spread"], value["seeds"])
    return value


# --- HTML ---


def write_html(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write one self-contained HTML page.

    Args:
        path: the file; its folder is made.
        title: heading of the page.
        sections: with a list of contents where there is more than one.
        facts: shown small below the title, such as hardware, commit and date.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    if facts:
        pairs = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
        body.append(f"<dl>{''.join(pairs)}</dl>")
    if len(sections) > 1:
        body.append(_contents(sections))
    body += [_section_html(s, 2, _anchor(i, s)) for i, s in enumerate(sections, start=1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path,
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n",
    )


def _contents(sections: Sequence[Section]) -> str:
    items = []
    for number, section in enumerate(sections, start=1):
        marks = " ".join(_mark(verdict) for verdict in section.verdicts())
        link = f'<a href="#{_anchor(number, section)}">{html.escape(section.title)}</a>'
        items.append(f"<li>{link} {marks}</li>")
    return f"<nav><ol>{''.join(items)}</ol></nav>"


def _anchor(number: int, section: Section) -> str:
    # The number keeps two equal titles apart.
    return f"{number}-{re.sub(r'[^a-z0-9]+', '-', section.title.lower()).strip('-')}"


def _section_html(section: Section, level: int, anchor: str) -> str:
    heading = f"h{min(level, 6)}"
    identity = f' id="{anchor}"' if anchor else ""
    parts = [f"<{heading}>{html.escape(section.title)}</{heading}>"]
    for part in section.parts:
        match part:
            case str():
                parts.append(f"<p>{html.escape(part)}</p>")
            case Table():
                parts.append(_table_html(part))
            case Figure():
                parts.append(_figure_html(part))
            case Verdict():
                parts.append(f'<p class="verdict">{_mark(part)} {html.escape(part.claim)}</p>')
            case Code():
                parts.append(f"<pre><code>{html.escape(part.text)}</code></pre>")
            case Section():
                parts.append(_section_html(part, level + 1, ""))
            case _:
                raise TypeError(f"a section cannot show a {type(part).__name__}")
    return f"<section{identity}>\n" + "\n".join(parts) + "\n</section>"


def _mark(verdict: Verdict) -> str:
    kind, sign, word = {
        True: ("holds", "✓", "holds"),
        False: ("fails", "✗", "does not hold"),
        None: ("open", "–", "open"),
    }[verdict.holds]
    # Sign and word besides the colour, for who cannot tell the colours apart.
    return f'<span class="mark {kind}" title="{html.escape(verdict.claim)}">{sign} {word}</span>'


def _table_html(table: Table) -> str:
    numeric = table._numeric()

    def row_html(tag: str, cells: Iterable[str]) -> str:
        row = "".join(
            f'<{tag} class="number">{cell}</{tag}>' if right else f"<{tag}>{cell}</{tag}>"
            for cell, right in zip(cells, numeric, strict=True)
        )
        return f"<tr>{row}</tr>"

    head = row_html("th", (html.escape(name) for name in table.columns))
    rows = "\n".join(
        row_html("td", (_cell_html(cell, table.digits) for cell in row)) for row in table.rows
    )
    # Outside of the part that scrolls sideways on a narrow screen.
    caption = f"<figcaption>{html.escape(table.caption)}</figcaption>" if table.caption else ""
    return (
        f'<figure>{caption}<div class="wide"><table>\n<thead>{head}</thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div></figure>"
    )


def _figure_html(figure: Figure) -> str:
    data = base64.b64encode(figure.content).decode("ascii")
    caption = html.escape(figure.caption)
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    source = f"data:{html.escape(figure.media_type)};base64,{data}"
    return f'<figure><img src="{source}" alt="{caption}">{below}</figure>'


def _cell_text(cell: Cell, digits: int) -> str:
    if isinstance(cell, Measured):
        return _measured_text(cell, digits) + _seeds_text(cell)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)


def _cell_html(cell: Cell, digits: int) -> str:
    if isinstance(cell, Measured):
        seeds = _seeds_text(cell)
        number = html.escape(_measured_text(cell, digits))
        return f"{number}<small>{html.escape(seeds)}</small>" if seeds else number
    return html.escape(_cell_text(cell, digits))


def _measured_text(cell: Measured, digits: int) -> str:
    if math.isnan(cell.mean):
        return "–"
    spread = "" if cell.spread is None else f" ± {cell.spread:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}"


def _seeds_text(cell: Measured) -> str:
    return "" if math.isnan(cell.mean) else f" ({cell.seeds} seed{'s' * (cell.seeds != 1)})"


_STYLE = """\
:root { --ink: #1c1f24; --soft: #5c6470; --line: #d9dde3; --page: #fff; --panel: #f5f6f8;
  --link: #1a5fb4; --good: #1b7f3b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --soft: #9aa3af; --line: #363b43; --page: #15171b; --panel: #1e2126;
    --link: #8ab4f8; --good: #6fcf8a; --bad: #f28b82; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .25rem; }
h1, h2, h3, p, li, dd { overflow-wrap: break-word; }
p { margin: .6rem 0; max-width: 46rem; }
a { color: var(--link); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem;
  margin: 0 0 1.25rem; font-size: .875rem; color: var(--soft); }
dd { margin: 0; }
nav { background: var(--panel); border-radius: .5rem; padding: .6rem 1rem; }
nav ol { margin: 0; padding-left: 1.4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9375rem; }
td:first-child { min-width: 7rem; }
th, td { padding: .35rem 1.1rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th { font-weight: 600; border-bottom-width: 2px; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
td small { color: var(--soft); }
figure { margin: 1.25rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: .5rem; }
figcaption { margin: .25rem 0; max-width: 46rem; color: var(--soft); font-size: .875rem; }
pre { background: var(--panel); border-radius: .5rem; padding: .75rem 1rem; overflow-x: auto;
  font-size: .875rem; }
.mark { font-size: .8125rem; font-weight: 600; white-space: nowrap; border: 1px solid;
  border-radius: 1rem; padding: .05rem .55rem; }
.holds { color: var(--good); } .fails { color: var(--bad); } .open { color: var(--soft); }
"""
