"""What the documentation shows runs as it stands."""

from __future__ import annotations

import inspect
import re
import textwrap
from importlib.metadata import metadata

import pytest

from memory_adapt import OnlineLearner
from priors_shared.datasets import load_dataset
from priors_shared.datasets.base import as_float


def readme_example() -> str:
    """The README's Python block; it is the description of the installed package."""
    message = metadata("memory-adapt")
    text = message["Description"] or message.get_payload()  # type: ignore[attr-defined]
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block


def docstring_example() -> str:
    _, _, example = (inspect.getdoc(OnlineLearner) or "").partition("Example:\n")
    return textwrap.dedent(example)


@pytest.mark.parametrize("example", [readme_example, docstring_example])
def test_an_example_predicts_a_stream_of_characters(example: object) -> None:
    glyphs = load_dataset("glyphs", "test")
    images = [as_float(glyphs.images[int(glyphs.items_of(c)[0])]) for c in range(5)]
    order = (0, 1, 2, 3, 4, 4, 3, 2, 1, 0)
    predicted: list[int] = []

    def stream() -> object:
        for label in order:
            yield images[label], label
            predicted.append(int(names["logits"].argmax()))  # before its label has come

    names: dict[str, object] = {"stream": stream()}
    code = example()  # type: ignore[operator]
    exec(code if "import" in code else f"from memory_adapt import OnlineLearner\n{code}", names)
    assert predicted[5:] == list(order[5:])
