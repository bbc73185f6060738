"""One page of sections as one file: no script, nothing loaded from elsewhere."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from priors_shared.files import write_atomically
from priors_shared.reports.figures import Figure
from priors_shared.reports.tables import Cell, Measured, Table, cell_text, measured_text, seeds_text

_STYLE = Path(__file__).with_name("page.css")


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
class Links:
    """Files beside the page, by their paths from it."""

    paths: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A titled part of a page; strings are paragraphs, sections within it are subsections."""

    title: str
    parts: Sequence["str | Table | Figure | Verdict | Code | Links | Section"] = field(
        default_factory=list
    )
    folded: bool = False
    """Shows its title only, until it is opened."""

    def verdicts(self) -> list[Verdict]:
        """Return all verdicts in it and its subsections, in order."""
        found: list[Verdict] = []
        for part in self.parts:
            if isinstance(part, Verdict):
                found.append(part)
            elif isinstance(part, Section):
                found += part.verdicts()
        return found

    def figures(self) -> list[Figure]:
        """Return all figures in it and its subsections, in order."""
        found: list[Figure] = []
        for part in self.parts:
            if isinstance(part, Figure):
                found.append(part)
            elif isinstance(part, Section):
                found += part.figures()
        return found


def write_html(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    facts: Mapping[str, str] | None = None,
    overview: str = "",
) -> None:
    """Write one self-contained HTML page.

    Args:
        path: the file; its folder is made.
        title: heading of the page.
        sections: with a list of contents where there is more than one.
        facts: shown small before the sections, such as hardware, commit and date.
        overview: HTML after the cards, such as `claims_matrix`.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    if len(sections) > 1:
        body.append(_contents(sections))
    body.append(overview)
    if facts:
        pairs = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
        body.append(f"<dl>{''.join(pairs)}</dl>")
    body += [_section_html(s, 2, _anchor(i, s)) for i, s in enumerate(sections, start=1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path,
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n",
    )


def _contents(sections: Sequence[Section]) -> str:
    """A card for each section: its title, its first words, its first picture."""
    cards = []
    for number, section in enumerate(sections, start=1):
        name, _, about = section.title.partition(": ")
        words = next((part for part in section.parts if isinstance(part, str)), "")
        picture = "".join(_image_html(figure.thumbnail(480)) for figure in section.figures()[:1])
        cards.append(
            f'<li><a href="#{_anchor(number, section)}">{picture}<strong>{html.escape(name)}</strong>'
            f"<span>{html.escape(about)}</span></a><p>{html.escape(_first_sentence(words))}</p></li>"
        )
    return f'<nav aria-label="Systems"><ul class="cards">{"".join(cards)}</ul></nav>'


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


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
            case Links():
                links = (f'<a href="{quote(p)}">{html.escape(p)}</a>' for p in part.paths)
                parts.append(f"<ul>{''.join(f'<li>{link}</li>' for link in links)}</ul>")
            case Section():
                parts.append(_section_html(part, level + 1, ""))
            case _:
                raise TypeError(f"a section cannot show a {type(part).__name__}")
    if section.folded:
        title, *rest = parts
        inner = "\n".join(rest)
        return f"<details{identity}>\n<summary>{title}</summary>\n{inner}\n</details>"
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
    numeric = table.numeric()

    def row_html(tag: str, cells: Iterable[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        row = "".join(
            f'<{tag}{scope} class="number">{cell}</{tag}>'
            if right
            else f"<{tag}{scope}>{cell}</{tag}>"
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
    below = f"<figcaption>{html.escape(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure>{_image_html(figure)}{below}</figure>"


def _image_html(figure: Figure) -> str:
    data = base64.b64encode(figure.content).decode("ascii")
    source = f"data:{html.escape(figure.media_type)};base64,{data}"
    return f'<img src="{source}" alt="{html.escape(figure.caption)}">'


def _cell_html(cell: Cell, digits: int) -> str:
    if isinstance(cell, Measured):
        seeds = seeds_text(cell)
        number = html.escape(measured_text(cell, digits))
        return f"{number}<small>{html.escape(seeds)}</small>" if seeds else number
    return html.escape(cell_text(cell, digits))
