"""Checkpoints: exact round trips, no mixed pair whenever the writer is killed, clear errors."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from priors_shared import checkpoints
from priors_shared.checkpoints import (
    checkpoint_kind,
    find_weights,
    has_training_state,
    load_module,
    load_state,
    load_training_state,
    load_weights,
    save_training_state,
    save_weights,
)
from priors_shared.checkpoints.training_state import restore
from priors_shared.errors import UserError

KIND = "test net"


def constant_model(value: float) -> nn.Module:
    model = nn.Linear(4, 3)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def save_number(folder: Path, value: float) -> None:
    save_weights(folder, constant_model(value), kind=KIND, config={"value": value})


def load_number(folder: Path) -> float:
    """The number in config.json, checked against every weight: no mix of two saves."""
    record, weights = load_weights(folder, kind=KIND)
    value = record["config"]["value"]
    assert all((tensor == value).all() for tensor in weights.values())
    return value


def test_weights_return_exactly(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2).to(torch.bfloat16), nn.BatchNorm1d(2))
    save_weights(tmp_path / "new" / "folder", model, kind=KIND, config={"a": [1]}, extra={"acc": 9})
    record, weights = load_weights(tmp_path / "new" / "folder", kind=KIND)
    assert (record["schema"], record["kind"], record["config"]) == (1, KIND, {"a": [1]})
    assert record["acc"] == 9
    expected = model.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_half_the_bytes_come_back_as_the_models_own_type(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(3)  # floats, and a count of batches that is none
    nn.init.normal_(model.weight)
    model.num_batches_tracked += 70_001
    save_weights(tmp_path, model, kind=KIND, config={}, half=True)
    weights = load_weights(tmp_path, kind=KIND)[1]
    assert weights["weight"].dtype == torch.float16
    assert model.weight.dtype == torch.float32  # left as it was
    other = nn.BatchNorm1d(3)
    other.load_state_dict(weights)
    assert torch.equal(other.weight, model.weight.half().float())
    assert int(other.num_batches_tracked) == 70_001
    assert not checkpoints.has_weights(tmp_path / "model")
    assert checkpoints.has_weights(tmp_path)


def test_tied_and_transposed_weights_are_stored(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.arange(6.0).view(3, 2).t()[0])
    save_weights(tmp_path, model, kind=KIND, config={})
    _, weights = load_weights(tmp_path, kind=KIND)
    assert torch.equal(weights["0.weight"], weights["1.weight"])
    assert torch.equal(weights["0.bias"], torch.tensor([0.0, 2.0, 4.0]))


class Compiled(nn.Module):
    """What `torch.compile` returns, for `state_dict`; importing the compiler takes seconds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_compiled_model_is_stored_under_its_own_names(tmp_path: Path) -> None:
    model = nn.Sequential(Compiled(nn.Linear(2, 2)))
    save_weights(tmp_path, Compiled(model), kind=KIND, config={})
    assert load_weights(tmp_path, kind=KIND)[1].keys() == {"0.weight", "0.bias"}


def test_reserved_names_are_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digest"):
        save_weights(tmp_path, nn.Linear(1, 1), kind=KIND, config={}, extra={"digest": "x"})


@pytest.mark.parametrize("kept", range(4))
def test_failing_rename_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    save_number(tmp_path, 1)
    renames = 0
    replace = os.replace

    def replace_or_fail(*names: Any) -> None:
        nonlocal renames
        if renames == kept:
            raise OSError(errno.EIO, "the disk is gone")
        renames += 1
        replace(*names)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    if kept < 2:
        with pytest.raises(OSError, match="disk is gone"):
            save_number(tmp_path, 2)
    else:
        save_number(tmp_path, 2)
    monkeypatch.setattr(os, "replace", replace)
    assert load_number(tmp_path) == (1 if kept == 0 else 2)
    # Once more over what the interrupted save left, failing at each point again.
    for again in range(3):
        renames, before = 0, load_number(tmp_path)
        monkeypatch.setattr(os, "replace", replace_or_fail)
        kept = again
        with suppress(OSError):
            save_number(tmp_path, 3 + again)
        monkeypatch.setattr(os, "replace", replace)
        assert load_number(tmp_path) in (before, 3 + again)
    save_number(tmp_path, 9)
    assert load_number(tmp_path) == 9
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


def test_full_disk_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_number(tmp_path, 1)

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space .*model\.safetensors"):
        save_number(tmp_path, 2)
    assert load_number(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


def test_value_that_json_lacks_leaves_the_old_pair(tmp_path: Path) -> None:
    save_number(tmp_path, 1)
    with pytest.raises(TypeError):
        save_weights(tmp_path, constant_model(2), kind=KIND, config={"value": object()})
    assert load_number(tmp_path) == 1


def test_killed_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A process that saves in a loop is killed at many moments; the folder loads each time."""
    code = """
import sys
from pathlib import Path
import torch
from torch import nn
from priors_shared.checkpoints import save_weights, load_weights
torch.set_num_threads(1)
for line in sys.stdin:  # each line: one folder to save to until killed
    folder, value = Path(line.strip()), 0
    import os
    if os.fork() == 0:
        while True:
            value += 1
            model = nn.Linear(200, 100)
            for parameter in model.parameters():
                nn.init.constant_(parameter, value)
            save_weights(folder, model, kind="test net", config={"value": value})
            if value == 1:
                print(os.getpid(), flush=True)
    os.wait()
"""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        values = []
        for attempt in range(30):
            # The same folder twice: the second process starts from what the first one left.
            folder = tmp_path / str(attempt // 2)
            parent.stdin.write(f"{folder}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            time.sleep(0.002 + 0.00137 * attempt)  # from within the 2nd save to some saves later
            os.kill(child, signal.SIGKILL)
            values.append(load_number(folder))
        parent.stdin.close()
    assert len(set(values)) > 1, "the kills all came at the same save"


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def set_config(**changes: Any) -> Callable[[Path], None]:
    def change(content: bytes) -> bytes:
        return json.dumps({**json.loads(content), **changes}).encode()

    return overwrite("config.json", change)


def resigned(**changes: Any) -> Callable[[Path], None]:
    """A record as the versions wrote it that had a digest of the tensors alone."""

    def change(content: bytes) -> bytes:
        record = {**json.loads(content), **changes}
        record.pop("record_digest")
        return json.dumps(record).encode()

    return overwrite("config.json", change)


def folder_at(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def tensors_are(content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)
        resigned(digest=hashlib.sha256(content).hexdigest())(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite("model.safetensors", lambda b: b[:-5]), r"model\.safetensors: truncated"),
        (overwrite("model.safetensors", lambda b: b[:-1] + b"!"), "SHA-256 differs"),
        (overwrite("model.safetensors", lambda b: b""), r"model\.safetensors: truncated"),
        (overwrite("config.json", lambda b: b[:-9]), r"config\.json: not JSON"),
        (overwrite("config.json", lambda b: b"[1]"), "not a JSON object"),
        (overwrite("config.json", lambda b: b"[" * 100_000), r"config\.json: not JSON"),
        (overwrite("config.json", lambda b: b'{"a": ' + b"9" * 5000 + b"}"), "not JSON"),
        (overwrite("config.json", lambda b: b"\xff\xfe{"), r"config\.json: not JSON"),
        (set_config(kind=["odd"]), "not the record of a checkpoint"),
        (set_config(digest=5), "not the record of a checkpoint"),
        (set_config(schema={"odd": 1}), "checkpoint schema"),
        (set_config(config={"value": 2}), r"config\.json: changed since it was written"),
        (set_config(acc=0.99), r"config\.json: changed since it was written"),
        (resigned(config=[1]), "its config is not an object"),
        (folder_at("config.json"), r"config\.json: cannot be read \(Is a directory\)"),
        (folder_at("model.safetensors"), r"model\.safetensors: cannot be read"),
        (tensors_are(b"no tensors"), r"model\.safetensors: not a safetensors file"),
        (overwrite("config.json", lambda b: b'{"a": 1}'), "not the record of a checkpoint"),
        (set_config(schema=2), "schema 2, this version reads 1"),
        (set_config(kind="other net"), "holds a other net, not a test net"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing"),
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    ],
)
def test_damage_is_named_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    save_number(tmp_path, 1)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(tmp_path, kind=KIND)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_before_is_read(tmp_path: Path) -> None:
    save_number(tmp_path, 4)
    resigned()(tmp_path)
    assert load_number(tmp_path) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    tmp_path: Path, value: float
) -> None:
    save_number(tmp_path, 1)
    diverged = constant_model(1)
    with torch.no_grad():
        next(diverged.parameters())[0, 0] = value
    with pytest.raises(UserError, match=r"the weights are not finite \(weight\)"):
        save_weights(tmp_path, diverged, kind=KIND, config={})
    with pytest.raises(UserError, match="not finite"):
        save_training_state(tmp_path, model=diverged, optimizer=None, step=1)
    with pytest.raises(UserError, match="not finite"):  # 65504 is the largest of 16 bits
        save_weights(tmp_path, constant_model(1e6), kind=KIND, config={}, half=True)
    assert load_number(tmp_path) == 1
    assert not has_training_state(tmp_path)
    tensors_are(safetensors.torch.save(diverged.state_dict()))(tmp_path)
    with pytest.raises(UserError, match="not finite"):
        load_weights(tmp_path, kind=KIND)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bias"), "bias is missing"),
        (lambda t: t.update(more=torch.ones(1)), "the model has no more"),
        (lambda t: t.update(bias=torch.ones(5)), r"bias has shape \(5,\), the model's \(3,\)"),
        (lambda t: t.update(bias=torch.ones(3, dtype=torch.int64)), r"bias holds torch\.int64"),
    ],
)
def test_layers_that_do_not_fit_are_one_line(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    tensors = dict(constant_model(2).state_dict())
    load_state(constant_model(0), tensors, tmp_path)
    change(tensors)
    with pytest.raises(UserError, match=message) as caught:
        load_state(constant_model(0), tensors, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


def test_kind_of_a_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_kind(tmp_path / "absent") is None
    (tmp_path / "config.json").write_text('{"kind": "a setting of some run"}')
    assert checkpoint_kind(tmp_path) is None
    save_number(tmp_path / "model", 1)
    assert checkpoint_kind(tmp_path) == checkpoint_kind(tmp_path / "model") == KIND


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "many"},
        {"step": None},
        {"optimizer": {"dict": 5}},
        {"optimizer": {"tensor": "missing"}},
        {"optimizer": {"dict": [], "list": []}},
        {"extra": [1]},
        {"extra": {"list": 5}},
    ],
)
def test_a_damaged_training_state_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    model, optimizer = build("Adam")
    train(model, optimizer, 1)
    save_training_state(tmp_path, model=model, optimizer=optimizer, step=1)
    path = tmp_path / "training.json"
    record = {**json.loads(path.read_text()), **changes}
    record.pop("record_digest")
    path.write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=r"training\.json: not the state of this training"
    ) as caught:
        load_training_state(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_state_of_other_layers_or_another_optimizer_is_one_line(tmp_path: Path) -> None:
    model, optimizer = build("Adam")
    train(model, optimizer, 1)
    save_training_state(tmp_path, model=model, optimizer=optimizer, step=1)
    state = load_training_state(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        restore(state, nn.Linear(1, 1), None, tmp_path)
    fewer = torch.optim.Adam(model[0].parameters())
    with pytest.raises(UserError, match="not the state of this training"):
        restore(state, model, fewer, tmp_path)


def test_random_states_are_not_stored(tmp_path: Path) -> None:
    save_training_state(tmp_path, model=constant_model(1), optimizer=None, step=1)
    assert "random" not in json.loads((tmp_path / "training.json").read_text())


def test_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for name in (tmp_path / "absent", "absent", "a/b/c", "./absent", "../absent"):
        with pytest.raises(UserError, match="no such checkpoint folder"):
            load_weights(name, kind=KIND)


class FakeSession:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def head(self, url: str, timeout: float) -> None:
        assert "some-org/some-model" in url
        if self.error is not None:
            raise self.error


def test_hub_id_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    save_number(tmp_path, 5)
    asked = []

    def download(repo_id: str, name: str, *, revision: str | None, local_files_only: bool) -> str:
        asked.append((repo_id, name, revision, local_files_only))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: FakeSession(None))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    record, _ = load_weights("some-org/some-model", kind=KIND, revision="v1")
    assert record["config"]["value"] == 5
    assert set(asked) == {
        ("some-org/some-model", name, "v1", False) for name in ("config.json", "model.safetensors")
    }


def test_unreachable_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    unreachable = OSError("no network\nat all")
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: FakeSession(unreachable))
    with pytest.raises(UserError, match=r"^some-org/some-model: .*\(no network\)$"):
        load_weights("some-org/some-model", kind=KIND)


def test_names_of_weights(tmp_path: Path) -> None:
    shipped, run, unfinished = (tmp_path / n for n in ("shipped", "run", "unfinished"))
    save_number(shipped / "small", 1.0)
    save_number(run / "model", 2.0)
    unfinished.mkdir()
    (unfinished / "metrics.jsonl").touch()

    def find(name: str | Path) -> str | Path:
        return find_weights(name, shipped=shipped, command="net train")

    assert find("small") == shipped / "small"
    assert find(run) == run / "model"
    assert find(str(run / "model")) == str(run / "model")
    assert find("org/name") == "org/name"
    with pytest.raises(UserError, match=r"large: neither a folder nor shipped weights \(small\)"):
        find("large")
    with pytest.raises(UserError, match=r"not finished.*resume it \(net train\)"):
        find(unfinished)
    for name in ("x" * 5000, "y/" * 3000):
        with pytest.raises(UserError, match="cannot be read"):
            find(name)
    with pytest.raises(UserError, match=r"is a file: give the folder"):
        find(unfinished / "metrics.jsonl")


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95)),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "Adam with a tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
}


def build(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2))
    return model, OPTIMIZERS[name](model.parameters())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(7, 5)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_training_is_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    """Same parameters to the bit, where the draws are the same."""
    torch.manual_seed(1)
    model, optimizer = build(name)
    train(model, optimizer, 3)
    save_training_state(tmp_path, model=model, optimizer=optimizer, step=3, stage=1)
    saved, random = optimizer.state_dict(), torch.get_rng_state()
    train(model, optimizer, 4)

    torch.manual_seed(2)
    resumed, its_optimizer = build(name)
    state = load_training_state(tmp_path)
    resumed.load_state_dict(state.model_state)
    assert state.optimizer_state is not None
    its_optimizer.load_state_dict(state.optimizer_state)
    assert repr(its_optimizer.state_dict()["param_groups"]) == repr(saved["param_groups"])
    torch.set_rng_state(random)
    train(resumed, its_optimizer, 4)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_extra_returns_with_its_types(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    extra = {
        "nested": {1: [True, None, (0.1, "x")], "empty": {}, "list": [], "tuple": ()},
        "best": float("-inf"),
        "tensor": torch.arange(3, dtype=torch.int16),
    }
    assert not has_training_state(tmp_path)
    save_training_state(
        tmp_path,
        model=nn.Linear(1, 1),
        optimizer=None,
        step=7,
        stage="readout",
        extra=extra,
        extra_tensors={"features": torch.ones(2, 0), "generator": generator.get_state()},
    )
    assert has_training_state(tmp_path)
    state = load_training_state(tmp_path)
    assert (state.step, state.stage, state.optimizer_state) == (7, "readout", None)
    assert torch.equal(state.extra.pop("tensor"), extra.pop("tensor"))
    assert repr(state.extra) == repr(extra)
    assert state.extra_tensors["features"].shape == (2, 0)
    resumed = torch.Generator()
    resumed.set_state(state.extra_tensors["generator"])
    assert torch.equal(torch.rand(3, generator=resumed), torch.rand(3, generator=generator))


def test_extra_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"extra/a/1: cannot store a object"):
        save_training_state(
            tmp_path, model=nn.Linear(1, 1), optimizer=None, step=0, extra={"a": [1, object()]}
        )
    assert not has_training_state(tmp_path)


def test_a_folder_holds_weights_and_training_state(tmp_path: Path) -> None:
    save_number(tmp_path, 3)
    save_training_state(tmp_path, model=constant_model(4), optimizer=None, step=1)
    assert load_number(tmp_path) == 3
    assert (load_training_state(tmp_path).model_state["weight"] == 4).all()


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    model, optimizer = build("Adam")
    train(model, optimizer, 1)
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    save_training_state(tmp_path, model=model, optimizer=optimizer, step=1)
    load_training_state(tmp_path)


def test_files_are_what_the_module_says(tmp_path: Path) -> None:
    save_number(tmp_path, 3)
    assert {path.name for path in tmp_path.iterdir()} == {checkpoints.WEIGHTS, checkpoints.CONFIG}


def test_a_following_process_writes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = torch.nn.Linear(2, 1)
    monkeypatch.setenv("RANK", "3")
    save_weights(tmp_path / "m", net, kind="k", config={})
    save_training_state(tmp_path / "s", model=net, optimizer=None, step=1)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    save_weights(tmp_path / "m", net, kind="k", config={})
    assert (tmp_path / "m").is_dir()


def test_a_module_is_built_from_its_record_and_draws_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = nn.Linear(3, 2)
    save_weights(tmp_path, saved, kind="line", config={"inputs": 3}, half=True)
    record, weights = load_weights(tmp_path, kind="line")
    before = torch.random.get_rng_state()
    loaded = load_module(tmp_path, lambda: nn.Linear(record["config"]["inputs"], 2), weights)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.weight.dtype == torch.float32
    assert torch.equal(loaded.weight, saved.weight.half().float())
    assert not loaded.training
    with pytest.raises(UserError, match=r"describes no model \('outputs'\); was it written"):
        load_module(tmp_path, lambda: nn.Linear(3, record["config"]["outputs"]), weights)
    with pytest.raises(UserError, match="do not fit the model"):
        load_module(tmp_path, lambda: nn.Linear(10**9, 10**9), weights)  # takes no memory
