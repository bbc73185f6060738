from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hyperfields.pretrained import HyperFields


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("priors_shared.testing")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random BERT of 2 layers and 16 features, whose words are those of the procedural prompts."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from hyperfields.conditioning.vocabulary import COLOURS, SHAPE_NAMES

    folder: Path = tmp_path_factory.mktemp("tiny-bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        ",",
        "front",
        "side",
        "back",
        "view",
    ]
    words += [*COLOURS, *SHAPE_NAMES, "stained", "glass", "overhead"]
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=12
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_text: str) -> Callable[..., HyperFields]:
    """Makes an untrained model of these training prompts, the same each time."""
    import torch

    from hyperfields.conditioning.text import TextEncoder
    from hyperfields.config import FieldConfig, ModelConfig
    from hyperfields.hypernetwork.network import HyperNetwork
    from hyperfields.pretrained import HyperFields

    field = FieldConfig(
        layers=3, width=16, levels=3, level_features=2, log2_rows=8, finest=16, frequencies=2
    )
    config = ModelConfig(text=tiny_text, blocks=1, heads=2, head_dim=8, hidden=16, field=field)

    def make(*prompts: str) -> HyperFields:
        text = TextEncoder(tiny_text)
        torch.manual_seed(0)
        return HyperFields(HyperNetwork(config, text.dim), text, trained={"prompts": prompts})

    return make
