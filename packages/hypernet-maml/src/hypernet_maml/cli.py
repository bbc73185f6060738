"""The console script `hypernet-maml`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from hypernet_maml import __version__
from hypernet_maml.config import (
    Algorithm,
    DomainConfig,
    InnerLoop,
    LaunchConfig,
    MetaConfig,
    TrainConfig,
)
from hypernet_maml.presets import DOMAIN, META, TRAIN
from priors_shared.errors import UserError
from priors_shared.options import (
    described,
    note,
    parse_options,
    preset_and_rest,
    run_experiments,
    run_program,
    say,
    subclass,
)

if TYPE_CHECKING:
    from hypernet_maml.learner import FewShotLearner

PROGRAM = "hypernet-maml"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    what = "Convolutions whose weights a small hypernetwork generates, and MAML that adapts their embeddings."
    run_program(PROGRAM, __version__, what, VERBS, argv)


# --- train and pretrain ---


@dataclass(frozen=True, kw_only=True)
class _RunOptions:
    out: Annotated[Path | None, described("DIR", "(default: runs/PRESET/SEED)")] = None
    """run folder"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""


def _train(args: list[str], verb: str = "train") -> None:
    """Image classification, and the pre-training of meta-learning: one loop."""
    preset, rest, help_text = preset_and_rest(verb, args, TRAIN)
    default = TRAIN[preset]()
    # --width, not --network.width: the network's options stand beside the training's.
    training = subclass(TrainConfig, network=Annotated[type(default.network), arg(name="")])
    options_type = subclass(
        _RunOptions,
        training=Annotated[training, arg(name="")],
        launch=Annotated[LaunchConfig, arg(name="")],
    )
    defaults = options_type(training=training(**vars(default)), launch=LaunchConfig())
    options: Any = parse_options(
        options_type, f"{PROGRAM} {verb} PRESET", rest, default=defaults, description=help_text
    )
    config = TrainConfig(**vars(options.training))
    _check_network(config.network)
    out = options.out or Path("runs") / preset / str(config.seed)

    from hypernet_maml.plots import ratio_figure, training_figure
    from hypernet_maml.training import train
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, verb, *args])
    with Run.create(
        out, asdict(config), command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        train(config, options.launch, run)
        metrics = run.metrics()
        figure: Any = training_figure(metrics, title=out.parent.name)
        plot = run.save_figure("training", figure)
        if any(key.startswith("ratio/") for key in metrics[-1]):
            figure = ratio_figure(metrics, title="Embeddings and their gradients")
            run.save_figure("ratios", figure)
    say(f"network   {out / 'model'}: validation accuracy {100 * metrics[-1]['val_accuracy']:.1f} %")
    say(f"plot      {plot}")
    say(f"next      {PROGRAM} export {out} or {PROGRAM} metatrain PRESET {out}")


def _pretrain(args: list[str]) -> None:
    _train(args, verb="pretrain")


def _check_network(config: Any) -> None:
    import torch

    from hypernet_maml.networks import build_network

    try:
        with torch.device("meta"):  # without its weights: are the options a network at all?
            build_network(dataclasses.replace(config, sharing="none"))
    except ValueError as error:
        raise UserError(f"these options make no network: {error}") from None


# --- metatrain ---


@dataclass(frozen=True, kw_only=True)
class _MetaOptions(_RunOptions):
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """a trained network to begin from: run folder, checkpoint folder, or Hugging Face Hub id"""
    algorithm: Algorithm | None = None
    """maml, maml-precond (Algorithm 1), fomaml, anil or hyper-maml (Algorithm 2)"""
    inner_steps: int | None = None
    """gradient steps on the support set"""
    inner_learning_rate: float | None = None
    """of these steps"""


def _metatrain(args: list[str]) -> None:
    preset, rest, help_text = preset_and_rest("metatrain", args, META)
    default = META[preset]()
    hidden = Annotated[InnerLoop, tyro.conf.Suppress]
    meta = subclass(MetaConfig, inner=(hidden, default.inner))
    options_type = subclass(
        _MetaOptions,
        meta=(Annotated[meta, arg(name="")], meta(**vars(default))),
        launch=(Annotated[LaunchConfig, arg(name="")], LaunchConfig()),
    )
    options: Any = parse_options(
        options_type, f"{PROGRAM} metatrain PRESET", rest, description=help_text
    )
    inner = default.inner
    for name, value in (
        ("algorithm", options.algorithm),
        ("steps", options.inner_steps),
        ("learning_rate", options.inner_learning_rate),
    ):
        if value is not None:
            inner = dataclasses.replace(inner, **{name: value})
    config = MetaConfig(**vars(options.meta) | {"inner": inner})

    from hypernet_maml.learner import load_network
    from hypernet_maml.metatraining import metatrain
    from hypernet_maml.plots import meta_figure
    from priors_shared.runs import Run

    net, network, trained = load_network(options.checkpoint)
    out = options.out or Path("runs") / preset / f"{config.inner.algorithm}-{config.seed}"
    record = asdict(config) | {"network": asdict(network), "pretrained": trained}
    command = shlex.join([PROGRAM, "metatrain", *args])
    with Run.create(
        out, record, command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        metatrain(config, net, network, options.launch, run)
        metrics = run.metrics()
        title = f"{config.dataset}, {config.ways}-way {config.shots}-shot, {config.inner.algorithm}"
        figure: Any = meta_figure(metrics, ways=config.ways, title=title)
        plot = run.save_figure("meta", figure)
    best = max(m["val_accuracy"] for m in metrics if "val_accuracy" in m)
    say(f"learner   {out / 'model'}: best validation accuracy {100 * best:.1f} %")
    say(f"plot      {plot}")
    say(f"next      {PROGRAM} eval {out}")


# --- domain ---


@dataclass(frozen=True, kw_only=True)
class _DomainOptions(_RunOptions):
    checkpoint: Annotated[Positional[str | None], arg(metavar="[CHECKPOINT]")] = None
    """a trained network to begin from: run folder, checkpoint folder, or Hugging Face Hub id (default:
    initial weights)"""


def _domain(args: list[str]) -> None:
    preset, rest, help_text = preset_and_rest("domain", args, DOMAIN)
    default = DOMAIN[preset]()
    domain = subclass(DomainConfig, network=Annotated[type(default.network), arg(name="")])
    options_type = subclass(
        _DomainOptions,
        domain=(Annotated[domain, arg(name="")], domain(**vars(default))),
        launch=(Annotated[LaunchConfig, arg(name="")], LaunchConfig()),
    )
    options: Any = parse_options(
        options_type, f"{PROGRAM} domain PRESET", rest, description=help_text
    )
    config = DomainConfig(**vars(options.domain))
    image_size = config.network.image_size

    from hypernet_maml.domain import train_domains
    from hypernet_maml.learner import load_network
    from hypernet_maml.plots import domain_figure
    from priors_shared.runs import Run

    net, trained = None, None
    if options.checkpoint is None:
        _check_network(config.network)
    elif config.network != dataclasses.replace(default.network, image_size=image_size):
        raise UserError(
            "the network is the checkpoint's: leave out its options, but for --image-size"
        )
    else:
        net, network, trained = load_network(options.checkpoint)
        network = dataclasses.replace(network, image_size=image_size)
        config = dataclasses.replace(config, network=network)
    method = "rsc" if config.rsc else "no-rsc"
    out = options.out or Path("runs") / preset / f"{config.held_out}-{method}-{config.seed}"
    record = asdict(config) | {"pretrained": trained}
    command = shlex.join([PROGRAM, "domain", *args])
    with Run.create(
        out, record, command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        train_domains(config, net, options.launch, run)
        found = json.loads((out / "test.json").read_text())
        title = f"PACS without {config.held_out}, {method}"
        figure: Any = domain_figure(
            run.metrics(), held_out=config.held_out, accuracy=found["accuracy"], title=title
        )
        plot = run.save_figure("domain", figure)
    say(f"network   {out / 'model'}: crossval accuracy {100 * found['val_accuracy']:.1f} %")
    say(
        f"held out  {config.held_out}: {100 * found['accuracy']:.1f} % of its {found['images']} images"
    )
    say(f"plot      {plot}")


# --- eval ---


@dataclass(frozen=True, kw_only=True)
class _EvalOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """meta-trained learner: run folder, checkpoint folder, shipped weights or Hugging Face Hub id"""
    dataset: Annotated[str | None, described("NAME", "(default: what it was trained on)")] = None
    """fc100, cifar-fs, miniimagenet, tiny-imagenet, omniglot, glyphs, or folder:PATH; grey or smaller images
    are fitted to the network"""
    split: Literal["train", "val", "test", "all"] = "test"
    """which classes"""
    shots: Annotated[int | None, described("INT", "(default: as trained)")] = None
    """support images of each class"""
    queries: int = 15
    """query images of each class"""
    episodes: int = 600
    """tasks"""
    seed: int = 0
    """of the tasks"""
    out: Annotated[Path | None, described("FILE.json", "")] = None
    """write the result here"""
    data_root: Annotated[str | None, described("DIR", "(default: PRIORS_DATA)")] = None
    """folder with the datasets"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""
    threads: Annotated[int | None, described("INT", "")] = None
    """CPU threads"""


def _eval(args: list[str]) -> None:
    about = "Accuracy on few-shot tasks of classes that were never trained on."
    options = parse_options(_EvalOptions, f"{PROGRAM} eval", args, description=about)
    if options.episodes < 2:
        raise UserError(f"--episodes {options.episodes}: an interval needs 2 or more")

    from hypernet_maml.data import load_images
    from hypernet_maml.metatraining import evaluate_learner
    from priors_shared.console import Progress
    from priors_shared.devices import hardware, set_threads
    from priors_shared.episodes import FewShotSampler
    from priors_shared.runs import write_atomically
    from priors_shared.statistics import mean_confidence_interval

    set_threads(options.threads)
    learner = _load_learner(options.checkpoint, options.device)
    name = options.dataset or learner.trained.get("dataset")
    if name is None:
        raise UserError(f"{options.checkpoint} does not say what it was trained on: give --dataset")
    shots = options.shots or int(learner.trained.get("shots", 5))
    dataset = load_images(name, options.split, options.data_root, learner.network, adjust=True)
    drawn: dict[str, Any] = {"ways": learner.ways, "shots": shots, "queries": options.queries}
    sampler = FewShotSampler(dataset, **drawn, device=options.device)
    with Progress(options.episodes, "evaluate") as progress:
        found = evaluate_learner(
            learner.learner,
            sampler,
            tasks=options.episodes,
            seed=options.seed,
            each=lambda done: progress.advance(done),
        )
    interval = mean_confidence_interval(found)
    say(
        f"{options.checkpoint} on {dataset.name} ({options.split} classes), {learner.ways}-way {shots}-shot: "
        f"{100 * interval.mean:.2f} ± {100 * interval.half_width:.2f} % "
        f"({options.episodes} tasks, 95 % interval; chance {100 / learner.ways:.0f} %)"
    )
    if options.out is not None:
        record = {
            "checkpoint": options.checkpoint,
            "trained": learner.trained,
            "dataset": dataset.name,
            "split": options.split,
            **drawn,
            "episodes": options.episodes,
            "seed": options.seed,
            "accuracy": interval.mean,
            "half_width": interval.half_width,
            "per_task": [round(value, 4) for value in found.tolist()],
            "hardware": hardware(),
            "command": shlex.join([PROGRAM, "eval", *args]),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, json.dumps(record, indent=2) + "\n")
        say(f"result    {options.out}")


def _load_learner(checkpoint: str, device: str = "cpu") -> FewShotLearner:
    from hypernet_maml.learner import FewShotLearner

    return FewShotLearner.from_pretrained(checkpoint, device)


# --- adapt ---


@dataclass(frozen=True, kw_only=True)
class _AdaptOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """meta-trained learner: run folder, checkpoint folder, shipped weights or Hugging Face Hub id"""
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """images: one subfolder per class"""
    shots: int = 5
    """images of each class to learn from; the others are predicted"""
    seed: int = 0
    """of which images these are"""
    out: Annotated[Path, arg(metavar="FILE.csv")] = Path("predictions.csv")
    """predictions: path, class, predicted, probability"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""


def _adapt(args: list[str]) -> None:
    about = "Learn a folder's classes from a few images each, and predict the others."
    options = parse_options(_AdaptOptions, f"{PROGRAM} adapt", args, description=about)
    if options.shots < 1:
        raise UserError(f"--shots {options.shots}: give 1 or more")
    from hypernet_maml.adapt import adapt_to_folder

    learner = _load_learner(options.checkpoint, options.device)
    result = adapt_to_folder(learner, options.folder, shots=options.shots, seed=options.seed)
    for path, reason in result.skipped:
        note(f"skipped {path}: {reason}")
    result.write(options.out)
    say(f"learned   {len(result.class_names)} classes from {options.shots} images each")
    say(f"predicted {len(result.rows)} images: {100 * result.accuracy:.1f} % right")
    say(f"rows      {options.out}")


# --- export ---


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """trained network: run folder, checkpoint folder or Hugging Face Hub id"""
    out: Annotated[Path | None, described("PATH", "(default: plain, plain.onnx or learner)")] = None
    """folder for safetensors and learner, file for onnx"""
    format: Literal["safetensors", "onnx", "learner"] = "safetensors"
    """safetensors: the plain network, for this package and plain torch; onnx: for any runtime, checked with
    onnxruntime; learner: what metatrain made, as it is, with a model card"""
    results: Annotated[tuple[Path, ...], arg(metavar="[FILE.json ...]")] = ()
    """what eval --out wrote: accuracies for the card"""


def _export(args: list[str]) -> None:
    about = "Write a network with generated weights as a plain one: same outputs, size and speed."
    options = parse_options(_ExportOptions, f"{PROGRAM} export", args, description=about)

    from hypernet_maml.export import export_learner, export_onnx, export_safetensors
    from hypernet_maml.learner import load_network

    if options.format == "learner":
        out = options.out or Path("learner")
        export_learner(_load_learner(options.checkpoint), out, options.results)
        say(f"learner   {out}: weights and model card (README.md)")
        return
    if options.results:
        raise UserError("--results belong to --format learner: leave them out")
    net, config, trained = load_network(options.checkpoint)
    before = sum(p.numel() for p in net.parameters())
    if options.format == "onnx":
        out = options.out or Path("plain.onnx")
        operators = export_onnx(net, config, out)
        say(
            f"onnx      {out}: {sum(operators.values())} operators, logits checked with onnxruntime"
        )
        return
    out = options.out or Path("plain")
    plain = export_safetensors(net, config, out, trained=trained)
    after = sum(p.numel() for p in plain.parameters())
    say(f"network   {out}: {after:,} parameters (trained with {before:,}), same logits to the bit")


# --- diagnose ---


@dataclass(frozen=True, kw_only=True)
class _DiagnoseOptions:
    checkpoints: Annotated[Positional[tuple[str, ...]], arg(metavar="CHECKPOINT [CHECKPOINT ...]")]
    """run folders: of train, for |E| / |grad E|; of metatrain, to compare how far inner loops move"""
    dataset: Annotated[
        str | None, described("NAME", "(default: what the first was trained on)")
    ] = None
    """tasks for the inner loops"""
    tasks: int = 20
    """tasks to average over"""
    data_root: Annotated[str | None, described("DIR", "(default: PRIORS_DATA)")] = None
    """folder with the datasets"""
    out: Annotated[Path, arg(metavar="DIR")] = Path("diagnosis")
    """folder for the plots and numbers"""


def _diagnose(args: list[str]) -> None:
    about = "Plot embedding-to-gradient ratios (Fig. 3.3) and inner-loop movement (Fig. 3.5)."
    options = parse_options(_DiagnoseOptions, f"{PROGRAM} diagnose", args, description=about)
    from hypernet_maml.diagnosis import diagnose

    for line in diagnose(
        options.checkpoints, options.out, options.dataset, options.data_root, options.tasks
    ):
        say(line)


# --- reproduce ---


def _reproduce(args: list[str]) -> None:
    def load() -> Mapping[str, Callable[..., None]]:
        from hypernet_maml.experiments import EXPERIMENTS

        return EXPERIMENTS

    names = [f"table-3.{i}" for i in range(1, 9)] + [f"figure-3.{i}" for i in range(3, 7)]
    run_experiments(PROGRAM, args, names, load)


# --- presets ---


def _presets(args: list[str]) -> None:
    parse_options(_NoOptions, f"{PROGRAM} presets", args, description="List the presets.")
    width = max(map(len, [*TRAIN, *META, *DOMAIN]))
    for verb, presets in (("train", TRAIN), ("metatrain", META), ("domain", DOMAIN)):
        say(f"{PROGRAM} {verb}")
        for name, preset in presets.items():
            say(f"  {name:<{width}}  {(preset.__doc__ or '').strip()}")


@dataclass(frozen=True, kw_only=True)
class _NoOptions:
    pass


VERBS = {
    "train": (_train, "train a network on images: classification, or pre-training"),
    "pretrain": (_pretrain, "the same, for a network to meta-train"),
    "metatrain": (_metatrain, "meta-train a pre-trained network on few-shot tasks"),
    "domain": (_domain, "train on three domains of PACS, test on the fourth"),
    "eval": (_eval, "accuracy on few-shot tasks, with its confidence interval"),
    "adapt": (_adapt, "learn the classes of an image folder from a few images each"),
    "export": (_export, "write a plain network with the same outputs"),
    "diagnose": (_diagnose, "plot embedding ratios and inner-loop movement"),
    "reproduce": (_reproduce, "run the experiments of the thesis"),
    "presets": (_presets, "list the presets"),
}
