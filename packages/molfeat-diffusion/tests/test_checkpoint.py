"""Checkpoints: round trips, and published ones read without running what is in them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from molfeat_diffusion.config import UNIFORM, ModelConfig
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import import_midi, load_model, save_model
from priors_shared.errors import UserError


def test_a_model_comes_back_with_all_it_knows(model: MiDi, tmp_path: Path) -> None:
    save_model(tmp_path / "model", model, trained={"seed": 1})
    again, record = load_model(tmp_path / "model")
    assert again.config == model.config
    assert record["trained"] == {"seed": 1}
    for ours, theirs in zip(again.marginals, model.marginals, strict=True):
        assert torch.equal(ours, theirs)
    assert again.sizes is not None
    assert model.sizes is not None
    assert torch.equal(again.sizes, model.sizes)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.float()), name


def test_without_marginals_it_comes_back_without(small: ModelConfig, tmp_path: Path) -> None:
    save_model(tmp_path, MiDi(small))
    again, _ = load_model(tmp_path)
    assert not again.knows_marginals
    assert again.sizes is None


def test_a_published_checkpoint_is_imported(data: Path) -> None:
    """lightning.ckpt: made with omegaconf and torch.save, laid out as Lightning does, one tiny layer."""
    path = data / "midi" / "lightning.ckpt"
    with pytest.raises(pickle.UnpicklingError):  # so the allow-list is needed
        torch.load(path, weights_only=True)
    model = import_midi(path)
    assert model.vocabulary.name == "geom"
    network = model.config.network
    assert (network.layers, network.heads, network.width_atoms) == (1, 2, 4)
    noise = model.config.noise
    assert (noise.timesteps, noise.nu_positions, noise.nu_bonds) == (500, 2.5, 1.5)
    assert not model.knows_marginals
    raw = torch.load(path, weights_only=False, pickle_module=_Lenient)["state_dict"]
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(value, raw[f"model.{name}"]), name
    assert import_midi(path, noise=UNIFORM).config.noise == UNIFORM


class _Lenient:
    """A pickle module that makes nothing of omegaconf's classes: for this test's own file only."""

    load, loads, dump, dumps = pickle.load, pickle.loads, pickle.dump, pickle.dumps
    Pickler = pickle.Pickler

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            if module.startswith("omegaconf"):
                return type(name, (), {})
            return super().find_class(module, name)


class _Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("ran"),))  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": _Dangerous()}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"bad.ckpt: .*(allow-list|unreadable)"):
        import_midi(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_such_checkpoint_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        import_midi(tmp_path / "missing.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(UserError, match=r"text.ckpt: .*(unreadable|not a torch checkpoint)"):
        import_midi(tmp_path / "text.ckpt")
    whole = (data / "midi" / "lightning.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        import_midi(tmp_path / "half.ckpt")
    torch.save({"state_dict": {"model.mlp_in_X.0.weight": torch.zeros(4, 9)}}, tmp_path / "9.ckpt")
    with pytest.raises(UserError, match="reads 9 numbers per atom; known are"):
        import_midi(tmp_path / "9.ckpt")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no state_dict"):
        import_midi(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": {"layers": 2, "depth": 3}}, "describes no model"),
        ({"network": 3}, "describes no model"),
        ({"vocabulary": "alchemy"}, "describes no model"),
        ({"noise": {"timesteps": 0}}, "timesteps must be at least 2"),
    ],
)
def test_a_record_that_makes_no_model_is_one_line(
    model: MiDi, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    save_model(tmp_path, model)
    record = json.loads((tmp_path / "config.json").read_text())
    record["config"] |= change
    record.pop("record_digest")
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=said) as refusal:
        load_model(tmp_path)
    assert "\n" not in str(refusal.value)
