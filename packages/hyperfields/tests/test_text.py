"""Frozen text encoders: what they give, and what is said where one cannot be had."""

from __future__ import annotations

import pytest
import torch

from hyperfields.conditioning.text import TextEncoder, normalise
from priors_shared.errors import UserError


def test_embeddings_do_not_depend_on_the_prompts_beside(tiny_text: str) -> None:
    text = TextEncoder(tiny_text)
    long, short = "a stained glass lamp", "a mug"
    tokens, mask = text.encode([long, short])
    assert tokens.shape == (2, 6, text.dim)  # [CLS] a stained glass lamp [SEP]
    assert mask.sum(-1).tolist() == [6, 4]
    assert not tokens[1, 4:].any()
    alone, _ = TextEncoder(tiny_text).encode([short])
    assert torch.equal(alone[0], tokens[1, :4])
    colours, _ = text.encode(["a red mug", "a blue mug"])
    assert not torch.allclose(colours[0], colours[1])


def test_embeddings_are_the_encoders_last_hidden_state(tiny_text: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokens, _ = TextEncoder(tiny_text).encode(["a red chair"])
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tiny_text),
        AutoModel.from_pretrained(tiny_text),
    )
    with torch.no_grad():
        expected = model.eval()(**tokenizer("a red chair", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_of_models_of_two_halves_the_text_half_is_taken(
    kind: str, tiny_text: str, tmp_path
) -> None:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, T5Config, T5Model

    tokenizer = AutoTokenizer.from_pretrained(tiny_text)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    if kind == "t5":
        sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        whole = T5Model(T5Config(vocab_size=len(tokenizer), **sizes)).eval()
        half = whole.encoder
    else:
        text = {"vocab_size": len(tokenizer), "hidden_size": 8, "max_position_embeddings": 12}
        vision = {"hidden_size": 8, "image_size": 8, "patch_size": 4}
        config = CLIPConfig(text_config=text | small, vision_config=vision | small)
        whole = CLIPModel(config).eval()
        half = whole.text_model
    whole.save_pretrained(tmp_path)
    tokens, _ = TextEncoder(str(tmp_path)).encode(["a red mug"])
    ids = tokenizer("a red mug", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = half(input_ids=ids).last_hidden_state
    assert tokens.shape == (1, 5, 8)
    torch.testing.assert_close(tokens, expected)


def test_the_article_does_not_tell_the_colour(tiny_text: str) -> None:
    text = TextEncoder(tiny_text)
    one, other = text.encode(["An  Orange mug"])[0], text.encode(["a orange mug"])[0]
    assert torch.equal(one, other)
    assert normalise(" AN orange\tmug ") == "a orange mug"
    with pytest.raises(UserError, match="prompt is empty"):
        normalise(" \n ")


def test_encoders_that_cannot_be_had_are_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"^text: no encoder .*nothing here"):
        TextEncoder(str(tmp_path / "nothing"))
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^text: no encoder t5 here.*minilm needs no network"):
        TextEncoder("t5")
