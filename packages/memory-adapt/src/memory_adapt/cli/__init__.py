"""The console script `memory-adapt`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from memory_adapt import __version__
from memory_adapt.config import LaunchConfig, ModelConfig, TrainConfig
from memory_adapt.models.registry import LEARNERS
from memory_adapt.presets import PRESETS
from priors_shared.errors import UserError
from priors_shared.options import (
    described,
    note,
    parse_options,
    run_experiments,
    run_program,
    say,
    subclass,
    unknown,
)

if TYPE_CHECKING:
    import torch

    from memory_adapt.pretrained import OnlineLearner
    from priors_shared.datasets import ImageDataset
    from priors_shared.statistics import ShotAccuracy

PROGRAM = "memory-adapt"
DEFAULT_MODEL = "cl-lstm"
STREAM_SAMPLES = 10
"""Images of each class in an evaluation stream (thesis A.1.3)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    what = "Learners that adapt online, without gradients, to a stream whose labels arrive late."
    run_program(PROGRAM, __version__, what, VERBS, argv)


# --- train ---


@dataclass(frozen=True, kw_only=True)
class _TrainOptions:
    model: Annotated[str, arg(metavar="|".join(LEARNERS))] = DEFAULT_MODEL
    """the learner; its own options are below"""
    out: Annotated[Path | None, described("DIR", "(default: runs/PRESET/MODEL-SEED)")] = None
    """run folder"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""
    shots: Annotated[int | None, described("INT", "(default: the preset's)")] = None
    """samples of each class in a stream, in every stage"""


def _train(args: list[str]) -> None:
    preset, model, rest = _choose_preset(args)
    default = PRESETS[preset](model)
    options_type, defaults = _train_options(default, model)
    listed = f" PRESET is one of {', '.join(PRESETS)}." if not args or args[0] != preset else ""
    options: Any = parse_options(
        options_type,
        f"{PROGRAM} train {preset if not listed else 'PRESET'}",
        rest,
        default=defaults,
        description=f"{(PRESETS[preset].__doc__ or '').strip()}.{listed}",
    )
    config = _complete(options, default)
    out = options.out or Path("runs") / preset / f"{model}-{config.seed}"
    train(config, options.launch, out, shlex.join([PROGRAM, "train", *args]), options.resume)


def _choose_preset(args: list[str]) -> tuple[str, str, list[str]]:
    """Preset, model, and what is left to parse: these two choose the defaults of all options."""
    preset, rest = "omniglot_5way_cpu", list(args)
    if rest and not rest[0].startswith("-"):
        preset = rest.pop(0)
    elif not {"-h", "--help"} & set(args):
        raise UserError(f"train needs a preset first: choose {', '.join(PRESETS)}")
    if preset not in PRESETS:
        raise UserError(unknown("preset", preset, list(PRESETS)))
    model = DEFAULT_MODEL
    for here, following in itertools.pairwise([*rest, ""]):
        if here == "--model":
            model = following
        elif here.startswith("--model="):
            model = here.partition("=")[2]
    if model not in LEARNERS:
        raise UserError(unknown("model", model, list(LEARNERS)))
    return preset, model, rest


def _train_options(default: TrainConfig, model: str) -> tuple[type[Any], Any]:
    """The type of the options of a preset and model, and their defaults.

    The model's options stand beside the training's: --width, not --model.width.
    """
    network = type(default.model)
    training = subclass(TrainConfig, model=Annotated[network, arg(name="")])
    values = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
    values["model"] = network(**vars(default.model))
    options = subclass(
        _TrainOptions,
        training=Annotated[training, arg(name="")],
        launch=Annotated[LaunchConfig, arg(name="")],
    )
    return options, options(model=model, training=training(**values), launch=LaunchConfig())


def _complete(options: Any, default: TrainConfig) -> TrainConfig:
    """The configuration that the options ask for, in its own types."""
    values = {f.name: getattr(options.training, f.name) for f in dataclasses.fields(TrainConfig)}
    network = {f.name: getattr(values["model"], f.name) for f in dataclasses.fields(default.model)}
    if options.shots is not None:
        values["stages"] = tuple(replace(s, shots=options.shots) for s in values["stages"])
    return TrainConfig(**values | {"model": type(default.model)(**network)})


def train(
    config: TrainConfig, where: LaunchConfig, out: Path, command: str, resume: bool = False
) -> None:
    """Train in the run folder `out`, and plot the learning curve there."""
    import torch

    from memory_adapt.evaluation import blind_bound
    from memory_adapt.experiments.trained import run_config
    from memory_adapt.models.registry import build_model, model_name
    from memory_adapt.plots import learning_curve_figure
    from memory_adapt.training.online import VALIDATION_SHOTS
    from memory_adapt.training.online import train as run_training
    from priors_shared.runs import Run

    try:
        with torch.device("meta"):  # without its weights: are the options a network at all?
            build_model(config.model)
    except ValueError as error:
        raise UserError(f"these options make no {model_name(config.model)}: {error}") from None
    with Run.create(
        out, run_config(config), command=command, resume=resume, quiet=where.quiet
    ) as run:
        run_training(config, where, run)
        metrics = run.metrics()
        reported = {int(k.split("_")[1]) for m in metrics for k in m if k.startswith("val_")}
        bound = blind_bound(config.model.ways, VALIDATION_SHOTS) if config.model.ways <= 10 else []
        figure: Any = learning_curve_figure(
            metrics,
            ways=config.model.ways,
            blind={k: bound[k] for k in reported if k < len(bound)},
            title=f"{out.name}: {config.dataset}",
        )
        plot = run.save_figure("learning_curve", figure)
    say(f"learner         {out / 'model'}")
    say(f"learning curve  {plot}")
    say(f"next            {PROGRAM} eval {out}")


# --- eval ---


@dataclass(frozen=True, kw_only=True)
class _EvalOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """run folder, checkpoint folder, name of shipped weights, or Hugging Face Hub id"""
    dataset: Annotated[str | None, described("NAME", "(default: what it was trained on)")] = None
    """omniglot, glyphs, cifar-fs, or folder:PATH"""
    split: Literal["train", "val", "test", "all"] = "test"
    """which classes; those of test were never trained on"""
    shots: Annotated[tuple[int, ...], arg(metavar="INT [INT ...]")] = (1, 5, 8)
    """rows of the table: accuracy when a class was seen so often before"""
    samples: Annotated[
        int | None, described("INT", "(default: 10, or as many as the shots need)")
    ] = None
    """images of each class in a stream"""
    ways: Annotated[int | None, described("INT", "(default: as trained)")] = None
    """classes in a stream"""
    episodes: int = 1000
    """streams"""
    delay: Annotated[int | None, described("INT", "(default: as trained)")] = None
    """steps until a label arrives"""
    controls: bool = True
    """also evaluate with blank images, without labels and with random labels: all must fail"""
    seed: int = 0
    """of the streams"""
    out: Annotated[Path | None, described("FILE.json", "")] = None
    """write the results here"""
    plot: Annotated[Path | None, described("FILE.png", "")] = None
    """plot accuracy against shots here"""
    data_root: Annotated[
        str | None, described("DIR", "(default: the environment variable PRIORS_DATA)")
    ] = None
    """folder with the datasets"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""
    threads: Annotated[int | None, described("INT", "")] = None
    """CPU threads"""


CONTROL_EPISODES = 200


def _eval(args: list[str]) -> None:
    options = parse_options(
        _EvalOptions,
        f"{PROGRAM} eval",
        args,
        description="Accuracy against shots on streams of classes that were never trained on.",
    )
    if not options.shots or min(options.shots) < 0:
        raise UserError("--shots: give numbers of earlier views, 0 or more, such as 1 5 8")
    if options.episodes < 2:
        raise UserError(f"--episodes {options.episodes}: an interval needs 2 or more")
    evaluate(options, shlex.join([PROGRAM, "eval", *args]))


def evaluate(options: _EvalOptions, command: str) -> None:
    """Print the table; write the JSON and the plot that are asked for."""
    from memory_adapt.data.images import load_images
    from memory_adapt.evaluation import CONTROLS, Control, evaluate_predictions, take_away
    from priors_shared.console import Progress
    from priors_shared.devices import set_threads
    from priors_shared.episodes import OnlineEpisodes, OnlineEpisodeSampler

    set_threads(options.threads)
    learner, delay = _load(options.checkpoint, options.device, options.delay)
    name = options.dataset or learner.trained.get("dataset")
    if name is None:
        raise UserError(
            f"{options.checkpoint} does not say what it was trained on: give --dataset, such as "
            "--dataset glyphs"
        )
    dataset = load_images(name, options.split, options.data_root, learner.config)
    ways = learner.ways if options.ways is None else options.ways
    learner.reset(ways)  # checks the number
    samples = _stream_samples(dataset, options.shots, options.samples)
    sampler = OnlineEpisodeSampler(
        dataset, ways=ways, shots=samples, delay=delay, device=learner.device
    )

    asked: list[Control] = ["none", *(CONTROLS if options.controls else ())]
    results: dict[Control, ShotAccuracy] = {}
    count = {c: options.episodes if c == "none" else _fewer(options.episodes) for c in asked}
    with Progress(sum(count.values()), "evaluate") as progress:
        for control in asked:

            def predict(streams: OnlineEpisodes, control: Control = control) -> torch.Tensor:
                streams = take_away(streams, control, sampler, options.seed)
                progress.advance(streams.labels.shape[1])
                return learner.stream_logits(streams.images, streams.feedback, ways)

            results[control] = evaluate_predictions(
                predict, sampler, episodes=count[control], seed=options.seed
            )
    _report(options, command, learner, dataset, ways, samples, delay, results)


def _fewer(episodes: int) -> int:
    return min(episodes, CONTROL_EPISODES)


def _load(checkpoint: str, device: str, delay: int | None) -> tuple[OnlineLearner, int]:
    """The learner, and the label delay: the one asked for, or the one that it was trained with."""
    from memory_adapt.pretrained import OnlineLearner

    if delay is not None and delay < 1:
        raise UserError(f"--delay {delay}: a label arrives 1 step late or more")
    learner = OnlineLearner.from_pretrained(checkpoint, device, delay=delay)
    return learner, learner.delay


def _stream_samples(dataset: ImageDataset, shots: Sequence[int], samples: int | None) -> int:
    """Images of each class in a stream: enough for the shots, at most what every class has."""
    counts = [len(dataset.items_of(c)) for c in range(dataset.classes)]
    needed, fewest = max(shots) + 1, min(counts)
    poor = dataset.class_names[counts.index(fewest)]
    if samples is not None and samples < needed:
        raise UserError(
            f"--samples {samples}: {max(shots)} shots need streams of {needed} images a class"
        )
    if fewest < (samples or needed):
        raise UserError(
            f"class {poor!r} of {dataset.name} has {fewest} images, fewer than the "
            f"{samples or needed} of a stream ({max(shots)} shots and the image to predict): lower "
            "--shots or add images"
        )
    return samples or max(needed, min(STREAM_SAMPLES, fewest))


def _report(
    options: _EvalOptions,
    command: str,
    learner: OnlineLearner,
    dataset: ImageDataset,
    ways: int,
    samples: int,
    delay: int,
    results: Mapping[Any, ShotAccuracy],
) -> None:
    blind = _blind_bound(ways, samples)
    accuracy = results["none"]
    columns = [
        "shots",
        "accuracy (%)",
        "blind bound",
        *(c for c in results if c != "none"),
    ]
    rows = []
    for k in options.shots:
        half = 50 * float(accuracy.high[k] - accuracy.low[k])
        rows.append(
            [str(k), f"{100 * float(accuracy.mean[k]):.1f} ± {half:.1f}"]
            + [f"{100 * blind[k]:.1f}" if blind else "-"]
            + [f"{100 * float(r.mean[k]):.1f}" for c, r in results.items() if c != "none"]
        )
    _print_table(
        f"{options.checkpoint} on {dataset.name} ({dataset.split} classes), {ways} ways",
        columns,
        rows,
    )
    late = "one step late" if delay == 1 else f"{delay} steps late"
    say(
        f"{accuracy.episodes} streams of {ways} x {samples} images, labels {late}; "
        f"± 95 % interval over streams; chance {100 / ways:.1f} %; "
        "blind bound: the best accuracy without looking at an image"
    )
    if options.out is not None:
        from memory_adapt.evaluation import weights_hash

        _write_json(
            options.out,
            {
                "checkpoint": options.checkpoint,
                "weights": weights_hash(learner.model),
                "model": learner.config,
                "trained": learner.trained,
                "dataset": dataset.name,
                "split": dataset.split,
                "ways": ways,
                "samples": samples,
                "delay": delay,
                "seed": options.seed,
                "accuracy": _by_shot(accuracy),
                "blind_bound": blind,
                "chance": 1 / ways,
                "controls": {c: _by_shot(r) for c, r in results.items() if c != "none"},
            },
            command,
        )
        say(f"results  {options.out}")
    if options.plot is not None:
        from memory_adapt.plots import save_figure, shots_figure

        names = {"none": f"{dataset.name}, {ways} ways"}
        curves = {
            names.get(c, f"control: {c}"): (r.mean.tolist(), r.low.tolist(), r.high.tolist())
            for c, r in results.items()
        }
        title = Path(options.checkpoint).name
        save_figure(shots_figure(curves, ways=ways, blind=blind, title=title), options.plot)
        say(f"plot     {options.plot}")


def _by_shot(accuracy: ShotAccuracy) -> dict[str, Any]:
    """Fractions at 0, 1, 2, ... shots, with the bounds of their 95 % intervals."""
    parts = {"mean": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
    rounded = {k: [round(x, 5) for x in v.tolist()] for k, v in parts.items()}
    return {**rounded, "episodes": accuracy.episodes}


def _blind_bound(ways: int, samples: int) -> list[float] | None:
    from math import comb

    from memory_adapt.evaluation import blind_bound

    # It counts multisets: beyond this many it would take minutes.
    return blind_bound(ways, samples) if comb(ways + samples, samples) <= 200_000 else None


# --- adapt ---


@dataclass(frozen=True, kw_only=True)
class _AdaptOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """run folder, checkpoint folder, name of shipped weights, or Hugging Face Hub id"""
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """images: one subfolder per class"""
    classes: Annotated[tuple[str, ...], described("NAME [NAME ...]", "(default: all)")] = ()
    """the subfolders to use"""
    shots: Annotated[int | None, described("INT", "(default: all)")] = None
    """images of each class to use"""
    order: Literal["shuffled", "sorted"] = "shuffled"
    """shuffled; or sorted by file name whatever the class, as for frames with time stamps"""
    delay: Annotated[int | None, described("INT", "(default: as trained)")] = None
    """steps until a label arrives"""
    repeats: int = 1
    """passes over the images, each begun without memory and in another order"""
    invert: Literal["auto", "yes", "no"] = "auto"
    """turn light into dark: characters must be light on dark. auto: where the borders are light, for
    learners of grey images"""
    seed: int = 0
    """of the order"""
    out: Annotated[Path, arg(metavar="DIR")] = Path("adapted")
    """folder for predictions.csv, shots.png and stream.png"""
    quiet: bool = False
    """no line per image, only the summary"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""


def _adapt(args: list[str]) -> None:
    options = parse_options(
        _AdaptOptions,
        f"{PROGRAM} adapt",
        args,
        description="Take an image folder as a stream: predict each image, then learn from its label.",
    )
    adapt_to_folder(options)


def adapt_to_folder(options: _AdaptOptions) -> None:
    """Print a line per image and the summary; write predictions and pictures."""
    from memory_adapt.adaptation import (
        accuracy_of,
        adapt,
        balanced_shots,
        write_predictions,
    )
    from memory_adapt.data.folders import describe_conversions, load_stream_folder
    from memory_adapt.plots import save_figure, shots_figure, stream_figure

    learner, delay = _load(options.checkpoint, options.device, options.delay)
    dataset = load_stream_folder(
        options.folder,
        learner.config,
        classes=options.classes,
        shots=options.shots,
        invert={"auto": "auto", "yes": True, "no": False}[options.invert],  # type: ignore[arg-type]
    )
    for path, reason in dataset.skipped:
        note(f"skipped {path}: {reason}")
    conversions = describe_conversions(dataset, learner.config)
    if conversions:
        note(conversions)
    say(f"{len(dataset)} images of {dataset.classes} classes: {', '.join(dataset.class_names)}")

    predictions = []
    right = 0
    widest = max(map(len, dataset.class_names))
    for p in adapt(
        learner,
        dataset,
        order=options.order,
        delay=delay,
        seed=options.seed,
        repeats=options.repeats,
    ):
        predictions.append(p)
        right += p.correct
        if p.repeat == 1 and not options.quiet:
            mark = "right" if p.correct else "wrong" if p.known else "wrong, label not seen yet"
            say(
                f"{p.step:>4}  said {p.predicted:<{widest}}  ({p.probability:4.0%})  "
                f"is {p.label:<{widest}}  so far {right / len(predictions):4.0%}  "
                f"{Path(p.file).name}  {mark}"
            )

    accuracy = accuracy_of(predictions)
    balanced = balanced_shots(dataset) if options.order == "shuffled" else None
    blind = _blind_bound(dataset.classes, balanced) if balanced else None
    shown = [k for k in (0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100) if k < len(accuracy.mean)]
    rows = []
    for k in shown:
        spread = float(accuracy.high[k] - accuracy.low[k])
        value = f"{100 * float(accuracy.mean[k]):.1f}"
        value += f" ± {50 * spread:.1f}" if options.repeats > 1 else ""
        rows.append([str(k), value, str(int(accuracy.views[k]))])
        if blind:
            rows[-1].append(f"{100 * blind[k]:.1f}")
    columns = ["shots", "accuracy (%)", "images", *(["blind bound"] if blind else [])]
    _print_table(f"{options.checkpoint} on {dataset.name}", columns, rows)
    after_first = [p for p in predictions if p.known]
    known = sum(p.correct for p in after_first) / max(len(after_first), 1)
    say(
        f"{100 * right / len(predictions):.1f} % of {len(predictions)} predictions right; "
        f"{100 * known:.1f} % of the {len(after_first)} whose class had been named before; "
        f"chance {100 / dataset.classes:.1f} %"
        + ("; blind bound: the best accuracy without looking at an image" if blind else "")
    )

    write_predictions(options.out / "predictions.csv", predictions)
    curve = (accuracy.mean.tolist(), accuracy.low.tolist(), accuracy.high.tolist())
    title = f"{options.checkpoint} on {dataset.name}"
    figure = shots_figure({"accuracy": curve}, ways=dataset.classes, blind=blind, title=title)
    save_figure(figure, options.out / "shots.png")
    first = [p for p in predictions if p.repeat == 1]
    strip = stream_figure(
        dataset.images[[p.item for p in first]].numpy(),
        [p.label for p in first],
        [p.predicted for p in first],
        [not p.known for p in first],
        title=title,
    )
    save_figure(strip, options.out / "stream.png")
    for name in ("predictions.csv", "shots.png", "stream.png"):
        say(f"written  {options.out / name}")


# --- export ---


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """run folder, checkpoint folder, name of shipped weights, or Hugging Face Hub id"""
    out: Annotated[Path, arg(metavar="DIR")]
    """folder to write: config.json, model.safetensors and README.md, a model card"""
    results: Annotated[
        Path | None, described("FILE.json", "(default: the run folder's test.json)")
    ] = None
    """accuracies for the card: what `eval --out` wrote, or the test.json that `reproduce table-2.1`
    leaves in a run folder"""


def _export(args: list[str]) -> None:
    options = parse_options(
        _ExportOptions,
        f"{PROGRAM} export",
        args,
        description="Write a trained learner as a folder that stands alone, with a model card.",
    )
    from memory_adapt.evaluation import weights_hash
    from memory_adapt.export import model_card, read_results
    from memory_adapt.pretrained import OnlineLearner

    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: it is there already and not empty; use another folder")
    kept = Path(options.checkpoint) / "test.json"
    path = options.results or (kept if kept.is_file() else None)
    results = read_results(path) if path is not None else None
    learner = OnlineLearner.from_pretrained(options.checkpoint)
    own = weights_hash(learner.model)
    if results is not None and results.get("weights", own) != own:
        raise UserError(
            f"{path}: measured on other weights than those of {options.checkpoint}: give --results "
            f"FILE, written by `{PROGRAM} eval {options.checkpoint} --out FILE`"
        )
    learner.save_pretrained(out)
    (out / "README.md").write_text(model_card(out.name, learner, results), encoding="utf-8")
    say(f"written  {out}: config.json, model.safetensors, README.md")
    if path is None:
        note(f"the card has no accuracies: `{PROGRAM} eval --out` writes a file for --results")
    else:
        say(f"results  {path}")


# --- presets, cost, reproduce ---


@dataclass(frozen=True, kw_only=True)
class _NoOptions:
    pass


def _presets(args: list[str]) -> None:
    parse_options(
        _NoOptions, f"{PROGRAM} presets", args, description="List the settings that `train` knows."
    )
    rows = []
    for name, preset in PRESETS.items():
        config = preset(DEFAULT_MODEL)
        steps = sum(stage.steps for stage in config.stages)
        what = f"{name}\n{(preset.__doc__ or '').strip()}\n"
        rows.append([what, config.dataset, f"{steps:,}", _cost_of(name)])
    _print_table("", ["preset", "dataset", "steps", "rough cost"], rows)
    say(f"steps: of {DEFAULT_MODEL}; each preset trains --model {' | '.join(LEARNERS)}")


def _cost_of(preset: str) -> str:
    if preset.endswith("scratch_cpu"):
        return "hours, 1 core"
    return "10-60 min, 1 core" if preset.endswith("_cpu") else "hours, GPU"


@dataclass(frozen=True, kw_only=True)
class _CostOptions:
    measure: bool = True
    """also time steps of adaptation on this machine's CPU"""
    threads: Annotated[int | None, described("INT", "")] = None
    """CPU threads"""
    out: Annotated[Path | None, described("FILE.json", "")] = None
    """write the numbers here"""


def _cost(args: list[str]) -> None:
    options = parse_options(
        _CostOptions,
        f"{PROGRAM} cost",
        args,
        description="GFLOPs and measured time of one step of adaptation, for every model.",
    )
    from memory_adapt.cost import cost_table
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    rows = cost_table(measure=options.measure)
    columns = list(rows[0])
    names = [column.replace("_", "\n") for column in columns]  # narrow: there are many
    _print_table("", names, [[_number(row[c]) for c in columns] for row in rows])
    if options.out is not None:
        _write_json(options.out, {"rows": rows}, shlex.join([PROGRAM, "cost", *args]))
        say(f"results  {options.out}")


def _number(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _reproduce(args: list[str]) -> None:
    def load() -> Mapping[str, Callable[..., None]]:
        from memory_adapt.experiments import EXPERIMENTS

        return EXPERIMENTS

    run_experiments(PROGRAM, args, ("table-2.1", "delayed-labels"), load)


# --- output ---


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        say(title)
    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if place else "left"
        table.add_column(Text(column), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = None if sys.stdout.isatty() else 120  # in a file nothing need be broken at 80
    Console(file=sys.stdout, highlight=False, width=width).print(table)


def _write_json(path: Path, values: Mapping[str, Any], command: str) -> None:
    import json
    from datetime import UTC, datetime

    from memory_adapt.models.registry import config_to_json
    from priors_shared.devices import hardware
    from priors_shared.runs import source_commit, write_atomically

    def plain(value: object) -> object:
        return config_to_json(value) if isinstance(value, ModelConfig) else str(value)

    record = {
        **values,
        "command": command,
        "version": __version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=2, default=plain) + "\n")


VERBS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (_train, "train a learner by a preset"),
    "eval": (_eval, "accuracy against shots on held-out classes, with its controls"),
    "adapt": (_adapt, "an image folder as a stream: predict each image, then learn its label"),
    "export": (_export, "write a trained learner as a folder that stands alone"),
    "presets": (_presets, "list the settings that train knows"),
    "cost": (_cost, "GFLOPs and time of a step of adaptation, all models"),
    "reproduce": (_reproduce, "run the thesis' experiments"),
}
