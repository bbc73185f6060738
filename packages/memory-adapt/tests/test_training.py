"""Stages move what they say, a killed run ends as a straight one, and easy streams are learned."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from memory_adapt import presets
from memory_adapt.config import (
    CHECKPOINT_KIND,
    APLConfig,
    CLLSTMConfig,
    LaunchConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
    StageConfig,
    StageKind,
    TrainConfig,
)
from memory_adapt.data.images import jittered
from memory_adapt.evaluation import CONTROLS, Control, blind_bound, evaluate
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import build_model, config_from_json
from memory_adapt.training.online import (
    REPORTED_SHOTS,
    VALIDATION_SEED,
    VALIDATION_SHOTS,
    learning_rate,
    train,
)
from memory_adapt.training.staged import (
    ReadoutStage,
    TrainedLearner,
    bind_init,
    encoder_parameters,
    image_features,
    start_encoder,
)
from priors_shared.checkpoints import load_training_state, load_weights
from priors_shared.datasets import load_dataset
from priors_shared.episodes import OnlineEpisodeSampler
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics
from priors_shared.testing import killed_at_checkpoint

WAYS, SIDE, IMAGES = 2, 28, 12
SMALL = {"ways": WAYS, "width": 4, "image_size": SIDE}
# As the CPU presets with normalised gates; strided and a few channels wide, to be quick.
CL_LSTM = CLLSTMConfig(
    **SMALL, hidden=24, strides=(2, 1, 1, 1), pools=(True, True, False, True), gate_norm=True
)
WITH_READOUT: dict[str, ModelConfig] = {
    "cl-lstm": CL_LSTM,
    "lstm": LSTMConfig(**SMALL, hidden=24),
    "ntm": NTMConfig(**SMALL, hidden=8, slots=6, slot_size=5, heads=2),
}
PROTOTYPES: dict[str, ModelConfig] = {
    **WITH_READOUT,
    "apl": APLConfig(**SMALL, hidden=8, neighbours=3, slots=5),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in folders: each class has stripes at its own angle, in noise."""
    root = tmp_path_factory.mktemp("stripes")
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for split, classes in (("train", 6), ("val", 3)):
        for c in range(classes):
            angle = torch.tensor(torch.pi * (c / classes + (split == "val") / 12))
            stripes = torch.sin((x * angle.cos() + y * angle.sin()) * 0.9)
            (root / split / f"{split}{c}").mkdir(parents=True)
            for i in range(IMAGES):
                noise = 0.5 * torch.rand(SIDE, SIDE, generator=generator)
                grey = ((stripes + 1 + noise) * 100).to(torch.uint8)
                Image.fromarray(grey.numpy()).save(root / split / f"{split}{c}" / f"{i:02}.png")
    return root


def stage(kind: StageKind, steps: int, **settings: object) -> StageConfig:
    return StageConfig(**{"kind": kind, "steps": steps, "batch_size": 3, "shots": 3, **settings})


def config_for(
    folder: Path, model: ModelConfig, *stages: StageConfig, **rest: object
) -> TrainConfig:
    few = {"validation_episodes": 4, "log_every": 2, "checkpoint_every": 3, "validate_every": 4}
    return TrainConfig(dataset=f"folder:{folder}", model=model, stages=stages, **{**few, **rest})


def run_training(config: TrainConfig, out: Path, *, resume: bool = False) -> OnlineClassifier:
    with open_run(config, out, resume=resume) as run:
        return train(config, LaunchConfig(accelerator="cpu", quiet=True), run)


def open_run(config: TrainConfig, out: Path, *, resume: bool = False) -> Run:
    return Run.create(
        out, asdict(config), command="train", resume=resume, tensorboard=False, quiet=True
    )


def untrained(config: TrainConfig) -> TrainedLearner:
    torch.manual_seed(config.seed)
    return TrainedLearner(build_model(config.model))


def trained(out: Path) -> dict[str, Tensor]:
    """The learner with its head, from the run's last checkpoint."""
    return load_training_state(out / "checkpoints").model_state


# --- the learning rate ---


def test_learning_rate_rises_linearly_then_falls_as_half_a_cosine() -> None:
    stage = StageConfig(steps=100, learning_rate=2.0, warmup_steps=0, min_lr_ratio=0.1)
    assert learning_rate(stage, 0) == 2.0
    assert learning_rate(stage, 50) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert learning_rate(stage, 25) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + 0.5**0.5) / 2))
    assert learning_rate(stage, 99) == pytest.approx(0.2, rel=0.01)
    rates = [learning_rate(stage, update) for update in range(100)]
    assert rates == sorted(rates, reverse=True)
    constant = StageConfig(steps=100, learning_rate=2.0)
    assert {learning_rate(constant, update) for update in range(100)} == {2.0}
    warm = replace(constant, warmup_steps=4)
    assert [learning_rate(warm, update) for update in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_the_optimizer_is_adam_at_the_schedules_rate(folder: Path, tmp_path: Path) -> None:
    """Adam's first step is the learning rate for every parameter, whatever its gradient."""
    only = stage("episodes", 1, learning_rate=1e-2, warmup_steps=10, clip_norm=None)
    config = config_for(folder, WITH_READOUT["lstm"], only)
    before = untrained(config).model.state_dict()
    after = run_training(config, tmp_path / "run").state_dict()
    steps = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert steps.max() == pytest.approx(1e-3, rel=1e-3)
    assert steps.median() == pytest.approx(1e-3, rel=1e-2)


# --- what each stage moves ---


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototypes_move_the_feed_forward_encoder_and_the_head_alone(
    folder: Path, tmp_path: Path, name: str
) -> None:
    config = config_for(folder, PROTOTYPES[name], stage("prototypes", 3))
    learner = untrained(config)
    start_encoder(learner.model)
    run_training(config, tmp_path / "run")
    allowed = {
        name
        for name, parameter in learner.named_parameters()
        if any(parameter is p for p in encoder_parameters(learner.model))
    }
    head = {"head.log_scale", "head.beta", "head.gamma"}
    assert moved(learner.state_dict(), trained(tmp_path / "run")) == allowed | head


def test_prototypes_leave_the_memory_and_the_labels_of_cl_lstm_silent(
    folder: Path, tmp_path: Path
) -> None:
    config = config_for(folder, CL_LSTM, stage("prototypes", 3))
    model = run_training(config, tmp_path / "run")
    for layer in model.encoder:  # type: ignore[union-attr]
        assert not layer.hidden_conv.weight.any()
        assert not layer.input_conv.weight[:, -WAYS:].any()


@pytest.mark.parametrize("name", WITH_READOUT)
def test_readout_moves_all_but_the_encoder_and_the_head(
    folder: Path, tmp_path: Path, name: str
) -> None:
    config = config_for(folder, WITH_READOUT[name], stage("readout", 3))
    before = untrained(config).state_dict()
    run_training(config, tmp_path / "run")
    expected = {name for name in before if not name.startswith(("model.encoder.", "head."))}
    assert moved(before, trained(tmp_path / "run")) == expected


@pytest.mark.parametrize("name", ["cl-lstm", "opn"])
def test_episodes_move_the_whole_model(folder: Path, tmp_path: Path, name: str) -> None:
    model = CL_LSTM if name == "cl-lstm" else OPNConfig(**SMALL)
    config = config_for(folder, model, stage("episodes", 3))
    before = untrained(config).state_dict()
    run_training(config, tmp_path / "run")
    expected = {name for name in before if name.startswith("model.")}
    assert moved(before, trained(tmp_path / "run")) == expected


@pytest.mark.parametrize("name", WITH_READOUT)
def test_finishing_the_readout_folds_the_standardisation_exactly(name: str) -> None:
    """The same logits of features as before of standardised features."""
    torch.manual_seed(0)
    learner = TrainedLearner(build_model(WITH_READOUT[name])).double()
    readout = ReadoutStage(learner, stage("readout", 1))
    width = image_features(learner.model, torch.zeros(1, 1, 1, SIDE, SIDE).double()).shape[-1]
    features = 3 * torch.randn(6, 2, width).double() + 5
    feedback = torch.randint(-1, WAYS, (6, 2))
    readout.mean = torch.randn(width).double()
    readout.std = torch.rand(width).double() + 0.1
    standardised = readout.predict((features - readout.mean) / readout.std, feedback)
    assert not torch.allclose(readout.predict(features, feedback), standardised)
    readout.finish()
    torch.testing.assert_close(
        readout.predict(features, feedback), standardised, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("ways", "features", "hidden"),
    [(5, 8, 88), (5, 8, 400), (5, 8, 87), (6, 32, 400), (5, 64, 400), (3, 32, 30), (5, 512, 400)],
)
def test_a_readout_begins_as_a_prototype_memory_whatever_its_size(
    ways: int, features: int, hidden: int
) -> None:
    """Before its first step: right far more often than by chance once a label came, wherever there is room."""
    torch.manual_seed(0)
    lstm, classifier = torch.nn.LSTM(features + ways, hidden), torch.nn.Linear(hidden, ways)
    bind_init(lstm, classifier, features, ways)
    labels = torch.randint(ways, (8 * ways, 200))
    centres = torch.randn(200, ways, features)
    x = centres[torch.arange(200), labels] + 0.3 * torch.randn(*labels.shape, features)
    shown = torch.cat([torch.zeros(1, 200, ways), torch.nn.functional.one_hot(labels, ways)[:-1]])
    with torch.no_grad():
        logits = classifier(lstm(torch.cat([x, shown], -1))[0])
    late = (logits.argmax(-1) == labels)[4 * ways :].double().mean()
    assert late > 0.5, late


def test_a_readout_without_room_is_refused_before_anything_is_trained() -> None:
    config = presets.glyphs_5way_cpu("lstm")
    with pytest.raises(ValueError, match="hidden must be at least 11, got 10"):
        replace(config, model=replace(config.model, hidden=10))
    with pytest.raises(ValueError, match="hidden must be at least 11 for 5 ways, got 10"):
        bind_init(torch.nn.LSTM(12, 10), torch.nn.Linear(10, 5), 7, 5)
    replace(config, model=replace(config.model, hidden=11))
    replace(config, model=replace(config.model, hidden=10), stages=(stage("episodes", 1),))


def test_readout_draws_jittered_copies_of_training_images_only(folder: Path) -> None:
    learner = TrainedLearner(build_model(CL_LSTM)).eval()
    readout = ReadoutStage(learner, stage("readout", 1, jitter=2))
    train_set = load_dataset(f"folder:{folder}", "train", image_size=SIDE, channels=1)
    features = readout._features(train_set.images, torch.device("cpu"))
    inputs = readout.prepare(train_set, torch.device("cpu"))
    # Statistics of the images themselves, so that `finish` folds what validation was scored with.
    assert torch.equal(readout.mean, features.mean(0))
    streams = OnlineEpisodeSampler(train_set, ways=WAYS, shots=3).sample_streams(
        64, torch.Generator().manual_seed(0)
    )
    originals = ((features - readout.mean) / readout.std)[streams.items]
    drawn = inputs(streams, torch.Generator().manual_seed(1))
    unchanged = (drawn == originals).all(-1).double().mean()
    assert 0.2 < unchanged < 0.47  # a third, four standard deviations wide
    assert torch.equal(drawn, inputs(streams, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, inputs(streams, torch.Generator().manual_seed(2)))

    val_set = load_dataset(f"folder:{folder}", "val", image_size=SIDE, channels=1)
    validation = readout.prepare(val_set, torch.device("cpu"))
    streams = OnlineEpisodeSampler(val_set, ways=WAYS, shots=3).sample_streams(
        4, torch.Generator().manual_seed(0)
    )
    first, second = (validation(streams, torch.Generator().manual_seed(g)) for g in (1, 2))
    assert torch.equal(first, second)


def test_jitter_moves_images_by_what_it_says() -> None:
    dot = torch.zeros(400, 1, 29, 29, dtype=torch.uint8)
    dot[:, :, 13:16, 13:16] = 255
    moved = jittered(dot, torch.Generator().manual_seed(0))
    assert torch.equal(moved, jittered(dot, torch.Generator().manual_seed(0)))
    assert not torch.equal(moved, jittered(dot, torch.Generator().manual_seed(1)))
    weight = moved.double()[:, 0]
    place = torch.arange(29, dtype=torch.float64) - 14
    total = weight.sum((1, 2))
    for shift in ((weight.sum(1) * place).sum(-1) / total, (weight.sum(2) * place).sum(-1) / total):
        # The centre turns, shears and scales onto itself: only the shift, 7 % of the side, moves it.
        assert 1.7 < shift.abs().max() < 0.07 * 29 * 1.3
    assert (total > 0).all()


def test_only_a_readout_has_jitter() -> None:
    with pytest.raises(ValueError, match="jitter is for readout stages, not for episodes"):
        stage("episodes", 1, jitter=1)


@pytest.mark.parametrize("name", ["lstm", "ntm", "apl"])
def test_a_finished_readout_scores_on_images_what_it_scored_on_features(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """From a trained stage: the last validation is that of the learner that is written."""
    settings = stage("readout", 20, batch_size=16, learning_rate=1e-2)
    config = config_for(folder, PROTOTYPES[name], settings, validation_episodes=40)
    with open_run(config, tmp_path / "run") as run:
        model = train(config, LaunchConfig(accelerator="cpu", quiet=True), run)
        last = run.metrics()[-1]
    val = load_dataset(config.dataset, "val")
    sampler = OnlineEpisodeSampler(val, ways=WAYS, shots=VALIDATION_SHOTS)
    result = evaluate(model, sampler, episodes=40, seed=VALIDATION_SEED)
    for k in REPORTED_SHOTS:
        assert last[f"val_{k}_shot"] == pytest.approx(float(result.mean[k]), abs=1e-6)


# --- resuming ---

THREE_STAGES = (stage("prototypes", 7), stage("readout", 8, jitter=2), stage("episodes", 7))

CHECKPOINTS = 9  # every 3 steps of a stage, and at its end


@pytest.fixture(scope="module")
def killed_often(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: one straight, one killed before and after every checkpoint, and resumed."""
    out = tmp_path_factory.mktemp("runs")
    config = config_for(folder, CL_LSTM, *THREE_STAGES)
    run_training(config, out / "straight")
    for _ in range(CHECKPOINTS):
        for number in (0, 1):
            with killed_at_checkpoint(number):
                run_training(config, out / "killed", resume=True)
    run_training(config, out / "killed", resume=True)
    return out


def test_a_killed_run_ends_with_the_bytes_of_a_straight_one(killed_often: Path) -> None:
    straight, killed = killed_often / "straight", killed_often / "killed"
    for file in ("metrics.jsonl", "model/model.safetensors", "model/config.json", "config.json"):
        assert (killed / file).read_bytes() == (straight / file).read_bytes(), file


def test_metrics_count_steps_over_all_stages(killed_often: Path) -> None:
    lines = read_metrics(killed_often / "killed")
    # Every 2 steps of a stage, every 4 with a validation, and at its end.
    expected = [2, 4, 6, 7, 9, 11, 13, 15, 17, 19, 21, 22]
    assert [line["step"] for line in lines] == expected
    kinds = [stage.kind for stage in THREE_STAGES for _ in range(4)]
    assert [line["kind"] for line in lines] == kinds
    assert [line["step"] for line in lines if "val_1_shot" in line] == [4, 7, 11, 15, 19, 22]


def test_a_finished_run_resumes_to_itself(killed_often: Path, folder: Path) -> None:
    straight = killed_often / "straight"
    metrics = (straight / "metrics.jsonl").read_bytes()
    model = run_training(config_for(folder, CL_LSTM, *THREE_STAGES), straight, resume=True)
    assert (straight / "metrics.jsonl").read_bytes() == metrics
    record, weights = load_weights(straight / "model", kind=CHECKPOINT_KIND)
    assert config_from_json(record["config"]) == CL_LSTM
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_stage_starts_alike_whether_the_run_was_resumed_before_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages draw initial weights: the second's must not depend on the first's draws."""
    config = config_for(folder, CL_LSTM, stage("readout", 1), stage("readout", 1))
    straight = run_training(config, tmp_path / "straight").state_dict()
    start, starts = ReadoutStage.start, []

    def interrupted(self: ReadoutStage) -> None:
        starts.append(self)
        if len(starts) == 2:
            raise KeyboardInterrupt
        start(self)

    monkeypatch.setattr(ReadoutStage, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "resumed")
    resumed = run_training(config, tmp_path / "resumed", resume=True).state_dict()
    assert not moved(straight, resumed)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"seed": 1}, "seed"), ({"delay": 2}, "delay"), ({"stages": THREE_STAGES[:2]}, "stages")],
)
def test_another_configuration_cannot_resume(
    folder: Path, tmp_path: Path, change: dict[str, object], key: str
) -> None:
    config = config_for(folder, CL_LSTM, *THREE_STAGES)
    open_run(config, tmp_path / "run").close()
    with pytest.raises(UserError, match=f"resume: {key} is"):
        open_run(replace(config, **change), tmp_path / "run", resume=True)


# --- learning ---


@pytest.fixture(scope="module")
def memoriser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OnlineClassifier:
    """CL+LSTM by the staged recipe, in a few hundred tiny steps."""
    model = replace(CL_LSTM, width=8, hidden=48)
    stages = (
        stage("prototypes", 30, batch_size=8, learning_rate=1e-2),
        stage("readout", 250, batch_size=32, shots=4, learning_rate=1e-2, min_lr_ratio=0.1),
        stage("episodes", 30, batch_size=8, shots=5, learning_rate=2e-3, min_lr_ratio=0.1),
    )
    rare = {"validate_every": 1000, "checkpoint_every": 1000, "log_every": 1000}
    config = config_for(folder, model, *stages, **rare)
    return run_training(config, tmp_path_factory.mktemp("learn") / "run")


def test_cl_lstm_learns_easy_streams(folder: Path, memoriser: OnlineClassifier) -> None:
    result = evaluate(memoriser, streams_of(folder), episodes=100, seed=1)
    assert result.mean[1:].mean() > 0.9, result.mean


def streams_of(folder: Path) -> OnlineEpisodeSampler:
    return OnlineEpisodeSampler(load_dataset(f"folder:{folder}", "train"), ways=WAYS, shots=6)


@pytest.mark.parametrize("control", CONTROLS)
def test_what_it_learned_is_to_bind_labels_to_images(
    folder: Path, memoriser: OnlineClassifier, control: Control
) -> None:
    """Without either of them it is at chance, or below what a blind guess can reach."""
    sampler = streams_of(folder)
    result = evaluate(memoriser, sampler, episodes=300, seed=2, control=control)
    five_errors = 2.5 * (result.high - result.low) / 1.96 + 1e-6
    if control == "blank images":
        assert result.mean.mean() < sum(blind_bound(WAYS, 6)) / 6 + five_errors.mean()
    else:
        assert ((result.mean - 1 / WAYS).abs() < five_errors).all(), result.mean


def test_opn_learns_easy_streams(folder: Path, tmp_path: Path) -> None:
    rare = {"validate_every": 1000, "checkpoint_every": 1000, "log_every": 1000}
    settings = stage("episodes", 60, batch_size=8, learning_rate=1e-2)
    config = config_for(folder, OPNConfig(**{**SMALL, "width": 8}), settings, **rare)
    model = run_training(config, tmp_path / "run")
    result = evaluate(model, streams_of(folder), episodes=50, seed=1)
    assert result.mean[1:].mean() > 0.9, result.mean


@pytest.mark.parametrize("kind", ["prototypes", "readout", "episodes"])
def test_a_training_that_diverges_ends_with_an_error_and_no_learner(
    folder: Path, tmp_path: Path, kind: StageKind
) -> None:
    settings = stage(kind, 20, learning_rate=1e30)
    with pytest.raises(
        UserError, match=r"^learning_rate: the loss is (not finite|\d\.\de\+\d\d) after step"
    ):
        run_training(config_for(folder, CL_LSTM, settings), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_readout_that_would_see_no_label_is_refused(tmp_path: Path) -> None:
    config = presets.omniglot_5way_cpu("cl-lstm")
    assert isinstance(config.model, CLLSTMConfig)
    config = replace(config, model=replace(config.model, label_injection="first"))
    with (
        Run.create(tmp_path / "run", {}, command="test", tensorboard=False, quiet=True) as run,
        pytest.raises(UserError, match="sees no label"),
    ):
        train(config, LaunchConfig(accelerator="cpu"), run)
