"""The language model of SMILES: features, training, and what is left out of it."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from molfeat_diffusion.cli import main
from molfeat_diffusion.config import LanguageConfig, LaunchConfig
from molfeat_diffusion.featurizers.smiles import SmilesFeaturizer, build_tokenizer, loses_chlorine
from molfeat_diffusion.training.language import masked, train_language
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.testing import killed_at_checkpoint

SMILES = ["CCO", "c1ccccc1Cl", "CC(=O)N", "C[C@H](N)C(=O)O", "CCBr", "C%10CCCCC%10", "CS(C)=O"] * 6
TINY = LanguageConfig(
    exclude=(),
    width=16,
    layers=2,
    heads=2,
    feed_forward=16,
    steps=6,
    batch_size=8,
    validate_every=3,
    checkpoint_every=2,
    log_every=1,
    validation_fraction=0.2,
    max_length=24,
)


def train(folder: Path, config: LanguageConfig, *, resume: bool = False) -> Path:
    with Run.create(
        folder, vars(config), command="test", resume=resume, tensorboard=False, quiet=True
    ) as run:
        train_language(config, LaunchConfig(accelerator="cpu", quiet=True), run)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smiles") / "corpus.smi"
    # Different SMILES: equal ones are used once.
    path.write_text("\n".join("C" * n + text for n in range(1, 7) for text in SMILES[:7]) + "\n")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    config = LanguageConfig(**{**vars(TINY), "data": (str(corpus),)})
    return train(tmp_path_factory.mktemp("language") / "run", config)


def test_features_are_the_masked_mean_of_the_last_layer(model: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    X = SmilesFeaturizer(model).transform(["OCC", "c1ccccc1Cl"])
    encoder = AutoModel.from_pretrained(model / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(model / "model")
    with torch.no_grad():  # alone, so that nothing is padded; of the canonical SMILES
        alone = encoder(**tokenizer("CCO", return_tensors="pt")).last_hidden_state[0].mean(0)
    assert X.dtype == np.float32
    np.testing.assert_allclose(X[0], alone.numpy(), atol=1e-6)


def test_features_do_not_depend_on_batch_order_or_writing(model: Path) -> None:
    one = SmilesFeaturizer(model, batch=1).transform(["CCO", "CC(=O)N", "c1ccccc1Cl"])
    many = SmilesFeaturizer(model).transform(["Clc1ccccc1", "NC(C)=O", "OCC"])
    np.testing.assert_allclose(one, many[::-1], atol=1e-6)
    mols = [Chem.MolFromSmiles(s) for s in ("CCO", "CC(=O)N", "c1ccccc1Cl")]
    np.testing.assert_allclose(SmilesFeaturizer(model).transform(mols), one, atol=1e-6)


def test_bad_rows_stay_as_rows_and_notes_say_what_was_cut(model: Path) -> None:
    rows = ["CCO", "not a molecule", None, "C" * 40, "CC(=O)[O-].[Na+]"]
    X, report = SmilesFeaturizer(model, errors="nan", max_length=20).transform(
        rows, ids=list("abcde"), first_row=100, return_failures=True
    )
    assert np.isnan(X).all(1).tolist() == [False, True, True, False, False]
    assert [(f.index, f.id, f.stage, f.failed) for f in report] == [
        (101, "b", "parse", True),
        (102, "c", "parse", True),
        (103, "d", "length", False),
        (104, "e", "fragment", False),
    ]
    cut = SmilesFeaturizer(model, max_length=20).transform(["C" * 18])  # 18 and two special ones
    np.testing.assert_allclose(X[3], cut[0], atol=1e-6)
    with pytest.raises(UserError, match="row 1"):
        SmilesFeaturizer(model).transform(rows)
    assert len(SmilesFeaturizer(model, errors="skip").transform(rows)) == 3


def test_tokens_are_atoms() -> None:
    tokenizer = build_tokenizer(["C[C@H](Cl)Br", "C%10CC%10"] * 5)
    assert tokenizer.tokenize("C[C@H](Cl)Br") == ["C", "[C@H]", "(", "Cl", ")", "Br"]
    assert tokenizer.tokenize("C%10") == ["C", "%10"]
    assert not loses_chlorine(tokenizer)


def test_a_tokenizer_that_loses_the_l_of_chlorine_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shutil

    from tokenizers import Regex, Tokenizer
    from tokenizers.pre_tokenizers import Split

    folder = tmp_path / "defect"
    shutil.copytree(model / "model", folder)
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.pre_tokenizer = Split(Regex("."), behavior="isolated")  # as the published ones: C, then l
    inner.save(str(folder / "tokenizer.json"))
    with pytest.warns(UserWarning, match="loses the l of Cl"):
        SmilesFeaturizer(folder).transform(["CCl"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        SmilesFeaturizer(model).transform(["CCl"])


def test_masks_hide_ordinary_tokens_in_the_shares_given() -> None:
    tokenizer = build_tokenizer(SMILES)
    tokens = tokenizer(["CCO" * 30] * 200)["input_ids"]
    ids, mask, labels = masked(tokens, tokenizer, 0.15, torch.Generator().manual_seed(0))
    truth = torch.tensor(tokens)
    chosen = labels != -100
    assert mask.all()
    assert (labels[chosen] == truth[chosen]).all()
    assert (ids[~chosen] == truth[~chosen]).all()
    assert not chosen[:, [0, -1]].any()  # <s> and </s>
    assert float(chosen[:, 1:-1].float().mean()) == pytest.approx(0.15, abs=0.01)
    hidden = ids[chosen] == tokenizer.mask_token_id
    assert float(hidden.float().mean()) == pytest.approx(0.8, abs=0.03)


def test_resumed_training_gives_the_same_weights(corpus: Path, model: Path, tmp_path: Path) -> None:
    config = LanguageConfig(**{**vars(TINY), "data": (str(corpus),)})
    with killed_at_checkpoint(2):
        train(tmp_path / "run", config)
    train(tmp_path / "run", config, resume=True)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (model / name).read_bytes()


def test_exported_weights_are_the_last_checkpoints(model: Path, tmp_path: Path) -> None:
    main(["export", str(model), "--out", str(tmp_path / "mine")])
    expected = SmilesFeaturizer(model).transform(["CCO"])
    np.testing.assert_array_equal(SmilesFeaturizer(tmp_path / "mine").transform(["CCO"]), expected)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "6 steps of 8 SMILES" in card
    assert (tmp_path / "mine" / "training.png").is_file()


def test_molecules_of_evaluation_tables_are_left_out(corpus: Path, tmp_path: Path) -> None:
    table = tmp_path / "labelled.csv"
    # Another writing, a salt, and an unreadable one.
    table.write_text("smiles,y\nOCCC,1\nCCC(=O)[O-].[Na+],0\nxx,1\n")
    source = tmp_path / "more.smi"
    source.write_text(corpus.read_text() + "CCCO\nCCC(=O)O\n")
    config = LanguageConfig(
        **{**vars(TINY), "data": (str(source),), "exclude": (str(table),), "steps": 1}
    )
    run = train(tmp_path / "run", config)
    used = (run / "smiles.txt").read_text().split()
    assert "CCCO" not in used
    assert "CCC(=O)O" not in used
    assert "CCCCO" in used
    assert (run / "left_out.tsv").read_text().splitlines()[1].startswith("2\tof 43")


def test_unknown_models_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor shipped weights"):
        SmilesFeaturizer("no-such-model").fit()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not a language model"):
        SmilesFeaturizer(tmp_path).fit()


def test_code_in_a_model_s_folder_never_runs(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(model / "model", folder)
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        "class C(PretrainedConfig):\n    model_type = 'evil'\n"
        "class M(PreTrainedModel):\n    config_class = C\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    code = (
        "import sys\nfrom molfeat_diffusion import SmilesFeaturizer\n"
        "from priors_shared.errors import UserError\n"
        f"try:\n    SmilesFeaturizer({str(folder)!r}).fit()\nexcept UserError:\n    sys.exit(3)\n"
    )
    answered = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 9, capture_output=True, text=True
    )
    assert answered.returncode == 3, answered.stderr
    assert not ran.exists()


def test_pickled_weights_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(model / "model", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        SmilesFeaturizer(folder).fit()
