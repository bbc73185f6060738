"""CLIP as the judge of renders: a tiny one, made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hyperfields.cli import main
from hyperfields.conditioning.clip import Clip
from hyperfields.conditioning.vocabulary import procedural_prompts
from hyperfields.evaluation import TOP, clip_retrieval
from hyperfields.pretrained import HyperFields
from priors_shared.errors import UserError

SIZE = 16


@pytest.fixture(scope="module")
def tiny_clip(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("tiny-clip")
    tokenizer = AutoTokenizer.from_pretrained(tiny_text)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"hidden_size": 16, "initializer_range": 0.5}
    text = small | {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": 3}
    vision = small | {"image_size": SIZE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return str(folder)


def test_cosines_are_those_of_transformers_own_pipeline(tiny_clip: str, tiny_text: str) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    prompts = ["a red mug", "a blue stained glass chair"]
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    pixels = processor(
        list(images.numpy()), return_tensors="pt", input_data_format="channels_first"
    )
    tokens = AutoTokenizer.from_pretrained(tiny_text)(prompts, return_tensors="pt", padding=True)
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    with torch.no_grad():
        expected = (
            model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                pixel_values=pixels.pixel_values,
            ).logits_per_image
            / model.logit_scale.exp()
        )
    cosines = Clip(tiny_clip).cosines(images.float() / 255, prompts)
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=0)
    assert float(cosines.std()) > 0.05


def test_images_of_any_size_are_fitted(tiny_clip: str) -> None:
    clip = Clip(tiny_clip)
    flat = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    sizes = [clip.pixels(flat.expand(1, 3, side, side)) for side in (5, SIZE, 64)]
    for other in sizes[1:]:
        torch.testing.assert_close(other, sizes[0], atol=1e-5, rtol=0)


class Knowing(Clip):
    """Says of a render what the list says, in turn."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def cosines(self, images, prompts):  # type: ignore[no-untyped-def]
        found = torch.zeros(len(images), len(prompts))
        for row in found:
            row[list(prompts).index(self.answers.pop(0))] = 1
        return found


def test_renders_are_looked_up_among_all_prompts_held_out_ones_apart() -> None:
    model = HyperFields.from_pretrained("procedural-cpu")
    held, trained = list(model.trained["held_out"]), list(model.prompts)
    assert {*held, *trained} == set(procedural_prompts())
    # Of held-out scenes one view in two is recognised, of trained ones all.
    answers = [answer for prompt in held for answer in (prompt, trained[0])]
    answers += [prompt for prompt in trained for _ in range(2)]
    found = clip_retrieval(model, Knowing(answers), views=2, size=4, samples=2)
    assert found["trained"] == {f"top-{k}": 100.0 for k in TOP}
    assert set(found["held out"].values()) == {50.0}


def test_the_command_asks_it_and_names_one_that_cannot_be_had(
    tiny_clip: str, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    few = ["--views", "1", "--size", "4", "--samples", "2"]
    main(["eval", "procedural-cpu", *few, "--clip", tiny_clip, "--out", str(out)])
    assert "held out  found by CLIP: top-1 " in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert set(record["clip"]["percent"]) == {"held out", "trained"}
    with pytest.raises(UserError, match="a model of type bert, not clip"):
        Clip(tiny_text)
    with pytest.raises(UserError, match=r"^clip: no encoder"):
        Clip(str(tmp_path))
