from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("priors_shared.testing")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random BERT of 2 layers and 16 features, whose words are those of the procedural prompts."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from hyperfields.vocabulary import COLOURS, SHAPE_NAMES

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
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
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
