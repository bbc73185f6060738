"""Training: data from files, and runs that resume to the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from molfeat_diffusion.config import LaunchConfig, ModelConfig, TrainConfig
from molfeat_diffusion.data.exclusion import connectivities
from molfeat_diffusion.data.molecules import VOCABULARIES, collate, graph_from_mol
from molfeat_diffusion.data.sets import load_molecules, load_packed, pack
from molfeat_diffusion.export import export_run
from molfeat_diffusion.pretrained import load_model
from molfeat_diffusion.training import diffusion as training
from molfeat_diffusion.training.diffusion import train
from priors_shared.errors import UserError
from priors_shared.runs import Run

Conformer = Callable[[str], Chem.Mol]
QUIET = LaunchConfig(accelerator="cpu", quiet=True)
SMILES = ["CCO", "CN", "C=O", "CF", "C#C", "CC", "[NH4+]"]


@pytest.fixture
def packed(conformer: Conformer, tmp_path: Path) -> Path:
    words = VOCABULARIES["qm9"]
    molecules = pack([graph_from_mol(conformer(s), words) for s in SMILES], words)
    molecules.save(tmp_path / "few.npz")
    return tmp_path / "few.npz"


@pytest.fixture
def config(small: ModelConfig, packed: Path) -> TrainConfig:
    return TrainConfig(
        data=(str(packed),),
        model=small,
        steps=4,
        batch_size=3,
        ema=0.9,
        validation_fraction=0.3,
        validate_every=4,
        checkpoint_every=2,
        log_every=3,
    )


def test_a_batch_is_what_its_graphs_collate_to(packed: Path) -> None:
    molecules = load_packed(packed, VOCABULARIES["qm9"])
    for indices in ([3], [0, 6, 2], list(range(len(molecules)))):
        expected = collate([molecules.graph(i) for i in indices])
        for name, value in molecules.batch(indices)._asdict().items():
            assert torch.equal(value, getattr(expected, name)), name


def test_sizes_of_few_molecules_share_a_batch(packed: Path) -> None:
    """A step of its own would weigh a lone molecule as much as a full batch; each still comes once an epoch."""
    few = load_packed(packed, VOCABULARIES["qm9"])
    molecules = few.subset([0] * 40 + [1, 2])
    batches = training._epoch(molecules, 16, 0, 0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(42))
    assert min(map(len, batches)) >= 8


def test_aromatic_bonds_are_refused_where_the_model_has_none(
    conformer: Conformer, tmp_path: Path
) -> None:
    words = VOCABULARIES["qm9"]
    path = tmp_path / "pyrrole.npz"
    pack([graph_from_mol(conformer("c1cc[nH]c1"), words)] * 3, words).save(path)
    options = {"data_root": None, "max_atoms": 20, "quiet": True}
    assert len(load_molecules([str(path)], words, **options)[0]) == 3  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"aromatic bonds.*kekulize"):
        load_molecules([str(path)], words, kekulize=True, **options)  # type: ignore[arg-type]


def start(config: TrainConfig, out: Path, *, resume: bool = False) -> Run:
    return Run.create(out, asdict(config), command="test", resume=resume, quiet=True)


def test_a_killed_run_resumes_to_the_same_bytes(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a checkpoint, in the middle of what is logged as one line, with dropout and an average."""
    with start(config, tmp_path / "straight") as run:
        train(config, QUIET, run)

    batches = training._batch

    def killed(molecules: object, config: TrainConfig, step: int) -> np.ndarray:
        if step == 3:
            raise KeyboardInterrupt
        return batches(molecules, config, step)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_batch", killed)
    with start(config, tmp_path / "killed") as run, pytest.raises(KeyboardInterrupt):
        train(config, QUIET, run)
    monkeypatch.undo()
    with start(config, tmp_path / "killed", resume=True) as run:
        train(config, QUIET, run)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        straight, resumed = ((tmp_path / d / name).read_bytes() for d in ("straight", "killed"))
        assert straight == resumed, name
    model, record = load_model(tmp_path / "straight")
    assert model.knows_marginals
    assert record["trained"]["molecules"] == 5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("atoms", lambda value: value[:-1]),
        ("charges", lambda value: value + 9),
        ("positions", lambda value: value[:, :2]),
        ("positions", lambda value: value * np.inf),
        ("bond_counts", lambda value: value[:-1]),
        ("bonds", lambda value: value + 3),
        ("sizes", lambda value: value[:, None]),
    ],
)
def test_packed_arrays_that_do_not_fit_are_refused(
    packed: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    with np.load(packed) as arrays:
        held = dict(arrays)
    held[name] = change(held[name])
    np.savez(packed, **held)
    with pytest.raises(UserError, match=r"few\.npz: not a file of packed molecules"):
        load_packed(packed, VOCABULARIES["qm9"])


def test_marginals_and_sizes_are_counted(packed: Path) -> None:
    words = VOCABULARIES["qm9"]
    molecules = load_packed(packed, words)
    sizes = [Chem.AddHs(Chem.MolFromSmiles(s)).GetNumAtoms() for s in SMILES]
    assert molecules.sizes.tolist() == sizes
    marginals = molecules.marginals()
    assert [float(m.sum()) for m in marginals] == pytest.approx([1, 1, 1])
    assert float(marginals.charges[2]) == pytest.approx(1 / sum(sizes))
    pairs = sum(n * (n - 1) for n in sizes)
    assert float(marginals.bonds[3]) == pytest.approx(2 / pairs)  # one triple bond
    histogram = molecules.size_histogram()
    assert int(histogram.sum()) == len(SMILES)
    assert torch.equal(molecules.graph(3).pos, molecules.subset([3]).graph(0).pos)


def test_smiles_files_get_conformers_and_say_what_they_left_out(tmp_path: Path) -> None:
    path = tmp_path / "some.smi"
    path.write_text("CCO ethanol\n\nCC\nnonsense\nC[Si](C)C\nCCCCCC\n")
    options = {"data_root": None, "max_atoms": 12, "quiet": True}
    found, left_out = load_molecules([str(path)], VOCABULARIES["qm9"], **options)
    assert sorted(found.sizes.tolist()) == [8, 9]
    assert sum(left_out.values()) == 3
    assert {key.split(":")[0] for key in left_out} == {"parse", "vocabulary", "size"}
    again, _ = load_molecules([str(path)], VOCABULARIES["qm9"], **options)
    np.testing.assert_array_equal(found.positions, again.positions)


@pytest.mark.reference
def test_qm9_is_read_with_its_structures(reference_data: Path) -> None:
    words = VOCABULARIES["qm9"]
    found, left_out = load_molecules(
        ["qm9"], words, data_root=reference_data, max_atoms=29, max_molecules=30, quiet=True
    )
    assert len(found) + sum(left_out.values()) == 30
    assert len(found) > 25
    lengths = []
    for i in range(len(found)):
        graph = found.graph(i)
        first, second = graph.edge_index
        lengths.append((graph.pos[first] - graph.pos[second]).norm(dim=-1))
    bonds = torch.cat(lengths)
    assert 0.9 < float(bonds.min()) < float(bonds.max()) < 1.8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.sdf", "no such file"),
        ("qm9", "give --data-root"),
        ("table.csv", "no column smiles; its columns: a, b"),
        ("broken.npz", "not a file of packed molecules"),
        ("few.npz", "packed for qm9, the model has geom"),
        ("empty.smi", "0 usable molecules"),
    ],
)
def test_wrong_data_is_named(
    packed: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed.parent)
    Path("table.csv").write_text("a,b\n1,2\n")
    Path("broken.npz").write_bytes(b"PK nothing")
    Path("empty.smi").write_text("")
    with pytest.raises(UserError, match=message):
        load_molecules([source], VOCABULARIES["geom"], data_root=None, max_atoms=9, quiet=True)


def test_molecules_of_an_evaluation_set_are_left_out_in_every_form(tmp_path: Path) -> None:
    """Other stereochemistry, charge, salt or writing: the same connectivity. A homologue is another one."""
    held_out = tmp_path / "held_out.csv"
    held_out.write_text("smiles,y\nC[C@H](N)C(=O)O,1\nnonsense,0\nCCCCCCCCCC,1\n")
    keys = connectivities([str(held_out)], data_root=None, quiet=True)
    assert len(keys) == 2
    assert len(connectivities([str(held_out)], data_root=None, max_heavy_atoms=6, quiet=True)) == 1
    same = ["OC(=O)C(C)N", "C[C@@H](N)C(=O)O", "CC([NH3+])C(=O)[O-]", "CC(N)C(=O)O.Cl"]
    other = ["NCCC(=O)O", "CCC(N)C(=O)O"]
    path = tmp_path / "some.smi"
    path.write_text("\n".join([*same, *other]))
    found, left_out = load_molecules(
        [str(path)],
        VOCABULARIES["geom_no_h"],
        data_root=None,
        max_atoms=12,
        exclude=keys,
        quiet=True,
    )
    assert sorted(found.sizes.tolist()) == [6, 7]
    assert sum(n for reason, n in left_out.items() if reason.startswith("excluded")) == len(same)


def test_updates_hold_molecules_of_one_size_each_once_an_epoch(
    packed: Path, config: TrainConfig
) -> None:
    molecules = load_packed(packed, VOCABULARIES["qm9"])
    config = replace(config, batch_size=2)
    batches = int(np.ceil(np.bincount(molecules.sizes) / 2).sum())
    for epoch in range(2):
        steps = range(epoch * batches, (epoch + 1) * batches)
        drawn = [training._batch(molecules, config, step) for step in steps]
        assert all(len(set(molecules.sizes[some])) == 1 for some in drawn)
        assert all(1 <= len(some) <= 2 for some in drawn)
        assert sorted(np.concatenate(drawn)) == list(range(len(molecules)))


def test_the_learning_rate_rises_and_falls(config: TrainConfig) -> None:
    config = replace(config, steps=100, warmup_steps=10, decay="cosine", learning_rate=2.0)
    rates = [training.learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.001
    flat = replace(config, decay="none")
    assert training.learning_rate(flat, 99) == 2.0


def test_a_training_gives_its_weights_at_any_time(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average of the last checkpoint; of a finished run, its model."""
    with start(config, tmp_path / "run") as run:
        kept = train(config, QUIET, run)
    assert export_run(tmp_path / "run", tmp_path / "whole") == config.steps
    (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    assert export_run(tmp_path / "run", tmp_path / "part") == config.steps
    for name in ("whole", "part"):
        model, record = load_model(tmp_path / name)
        for (key, ours), theirs in zip(
            model.state_dict().items(), kept.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs), key
        assert model.sizes is not None
        assert record["trained"]["molecules"] == int(model.sizes.sum()) == 5
    export_run(tmp_path / "run", tmp_path / "half", half=True)
    rounded = load_model(tmp_path / "half")[0]
    for ours, theirs in zip(rounded.parameters(), kept.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
    card = (tmp_path / "part" / "README.md").read_text()
    assert "# part" in card
    assert (tmp_path / "part" / "training.png").stat().st_size > 1000
    with pytest.raises(UserError, match="not a run folder"):
        export_run(tmp_path / "elsewhere", tmp_path / "no")


def test_a_loss_that_is_no_number_stops_the_run(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, learning_rate=1e30, ema=None)
    with (
        start(config, tmp_path / "run") as run,
        pytest.raises(UserError, match=r"^learning_rate: the loss is .* give clip_norm"),
    ):
        train(config, QUIET, run)
