"""Model cards: what a class or dataset is called shows as typed, and changes nothing else on the card."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from priors_shared.cards import model_card
from priors_shared.reports import Code, Table
from priors_shared.reports.tables import escape_markdown

NAMES = [
    "cats\n# Approved by all\n",
    "cats\r\n\r\n<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "## heading",
    "cats\n===",
    "---",
    "* item",
    "1. item",
    "+ item",
    "> quote",
    "```\n# out of the fence\n```",
    "~~~",
    "[click](javascript:alert(1)) ![x](http://x/y.png)",
    "<http://x.example>",
    "a|b\\",
    "    indented",
    "&lt;b&gt; &#35;",
    "__bold__ *i* `code` ~~no~~ $x$",
    "cats\u2028# line\x0b# line\x85# line\x00",
]


def parse(text: str) -> list[Any]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shown(name: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())


def texts(tokens: list[Any]) -> list[str]:
    """What each inline token shows; fails where one holds anything but text."""
    inline = [token for token in tokens if token.type == "inline"]
    assert {child.type for token in inline for child in token.children} <= {"text"}
    return ["".join(child.content for child in token.children) for token in inline]


def card(name: str, dataset: str) -> str:
    return model_card(
        name,
        dataset,
        examples={"python": f"load({name!r})"},
        facts={"Trained on": dataset, dataset: ["one", dataset]},
        parts=[dataset, Table(["data", dataset], [[dataset, 0.5]], dataset), Code(dataset)],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_name_writes_nothing_but_itself(name: str) -> None:
    tokens = parse(card(name, name))
    # The same blocks as those of a harmless name, whatever it is called.
    plain = parse(card("cats", "cats"))
    assert [token.type for token in tokens] == [token.type for token in plain]
    assert texts(tokens) == [text.replace("cats", shown(name)) for text in texts(plain)]
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences[0] == f"load({name!r})\n"


@example("1)")
@example("_a_ b_c __")
@example("#" * 7)
@example("a ##")
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(shown))
def test_any_text_shows_as_typed(text: str) -> None:
    for before in ("", "- ", "# "):
        tokens = parse(before + escape_markdown(text))
        assert len([token for token in tokens if token.type == "inline"]) == 1
        # Markdown itself cuts the spaces of other scripts at a line's ends.
        assert (
            "".join(texts(tokens)).split()
            == "".join(
                c if not (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029") else " "
                for c in text
            ).split()
        )


def test_numbers_and_names_of_settings_stay_as_they_are() -> None:
    for text in ("22.24 ± 3.06 (3 seeds)", "1-shot (%)", "art_painting", "-0.5", "|E| / |grad E|"):
        assert escape_markdown(text) == text


def test_a_picture_stands_beside_its_card() -> None:
    text = model_card("n", "a", examples={}, facts={"b": "c"}, picture="loss curve.png")
    assert "![loss curve.png](loss%20curve.png)" in text
    assert "\n\n\n" not in text
