"""Model cards: the README.md of weights to give away."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from priors_shared.errors import UserError
from priors_shared.files import read_json
from priors_shared.reports import Code, Table
from priors_shared.reports.tables import escape_markdown


def model_card(
    name: str,
    about: str,
    *,
    examples: Mapping[str, str],
    facts: Mapping[str, str | Sequence[str]],
    parts: Sequence[str | Table | Code] = (),
    picture: str = "",
) -> str:
    """Return a card as Markdown. All text shows as typed: a class's name writes no heading, link or HTML.

    Args:
        name: of the weights, the heading.
        about: a paragraph: what they are and are not.
        examples: language, such as "python", to code. Write names into it with `repr` or `shlex.quote`.
        facts: label to text, a line each; several texts stand below their label.
        parts: what was measured, and how.
        picture: name of an image file beside the card.
    """
    blocks = [f"# {escape_markdown(name)}", escape_markdown(about)]
    blocks += [_fenced(code, language) for language, code in examples.items()]
    blocks.append("\n".join(_fact(label, text) for label, text in facts.items()))
    if picture:
        blocks.append(f"![{escape_markdown(picture)}]({quote(picture)})")
    for part in parts:
        match part:
            case str():
                blocks.append(escape_markdown(part))
            case Table():
                blocks.append(part.to_markdown().rstrip("\n"))
            case Code():
                blocks.append(_fenced(part.text))
    return "\n\n".join(block for block in blocks if block) + "\n"


def read_evaluation(path: Path, *keys: str, program: str) -> dict[str, Any]:
    """What a program's `eval --out` wrote, for a card.

    Args:
        path: the file.
        keys: what such a file has at least.
        program: such as "hyperfields", for errors.

    Raises:
        UserError: no such file, or something else.
    """
    command = f"`{program} eval --out`"
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise UserError(f"results {path}: no such file; {command} writes it") from None
    if not set(keys) <= set(found):
        raise UserError(f"results {path}: not what {command} writes")
    return found


def _fact(label: str, text: str | Sequence[str]) -> str:
    head = f"- {escape_markdown(label)}:"
    if isinstance(text, str):
        return f"{head} {escape_markdown(text)}"
    return "\n".join([head, *(f"  - {escape_markdown(line)}" for line in text)])


def _fenced(code: str, language: str = "") -> str:
    fence = "```"
    while fence in code:  # a longer fence than any in the code, which could end it
        fence += "`"
    return f"{fence}{language}\n{code}\n{fence}"
