"""The console script `molfeat-diffusion`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from molfeat_diffusion import __version__
from molfeat_diffusion.config import (
    SHIPPED_MIDI,
    SHIPPED_SMILES,
    UNIFORM,
    LanguageConfig,
    LaunchConfig,
    LossConfig,
    ModelConfig,
    NetworkConfig,
    NoiseConfig,
    TrainConfig,
    VocabularyName,
)
from molfeat_diffusion.presets import LANGUAGE, TRAIN
from priors_shared.errors import UserError
from priors_shared.options import (
    Verbs,
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
    from rdkit import Chem

    from molfeat_diffusion.diffusion import MiDi

PROGRAM = "molfeat-diffusion"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    what = "Geometry-aware molecular features from a diffusion model of molecules."
    run_program(PROGRAM, __version__, what, VERBS, argv)


# --- featurize ---


@dataclass(frozen=True, kw_only=True)
class _FeaturizeOptions:
    source: Annotated[Positional[Path], arg(metavar="FILE")]
    """molecules: .csv, .smi, .sdf (each also .gz) or .parquet"""
    checkpoint: Annotated[str, arg(metavar="CHECKPOINT")] = SHIPPED_MIDI
    """shipped weights, run folder, checkpoint folder or Hugging Face Hub id of a diffusion model"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """features: .parquet, .csv (columns row, id, midi_0, ...) or .npy; failed rows are listed in
    FILE.failures.csv"""
    smiles_column: Annotated[str | None, described("NAME", "(default: smiles)")] = None
    """of a csv or parquet"""
    id_column: Annotated[str | None, described("NAME", "(default: the row's number)")] = None
    """of a csv or parquet"""
    layer: Annotated[int | None, described("INT", "(default: the middle one)")] = None
    """features are what leaves this layer"""
    timestep: int = 50
    """noise level: 0 (none) .. the model's T"""
    samples: int = 1
    """average over as many draws of the noise"""
    pooling: Literal["mean", "sum", "max"] = "mean"
    """over a molecule's atoms"""
    seed: int = 0
    """of noise and conformers"""
    errors: Literal["nan", "skip", "raise"] = "nan"
    """a molecule that fails: a row of NaN, no row, or stop"""
    max_atoms: int = 200
    """larger molecules fail"""
    fragment: Literal["largest", "all"] = "largest"
    """of salts"""
    timeout: int = 30
    """seconds for one conformer"""
    jobs: int = 1
    """processes that make conformers"""
    engine: Literal["local", "ray"] = "local"
    """ray: shards are made by Ray Data, on the cluster of RAY_ADDRESS or on this machine; the output is the
    same"""
    workers: int = 1
    """of --engine ray, each with --jobs processes and --threads threads; with --device cuda each has a GPU"""
    device: str = "cpu"
    """where the network runs: cpu, cuda, mps"""
    cache: Annotated[Path | None, described("FILE", "")] = None
    """keeps features between runs"""
    shard_rows: int = 512
    """rows that are done, and stored, at a time"""
    resume: bool = False
    """go on where a killed run stood"""
    threads: Annotated[int | None, described("INT", "")] = None
    """CPU threads of the network"""
    quiet: bool = False
    """no progress on stderr"""


def _featurize(args: list[str]) -> None:
    about = (
        "Features of every molecule of a file, by a diffusion model; every row is accounted for."
    )
    options = parse_options(_FeaturizeOptions, f"{PROGRAM} featurize", args, description=about)

    from molfeat_diffusion.features import MiDiFeaturizer
    from molfeat_diffusion.featurize import featurize_file
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    featurizer = MiDiFeaturizer(
        options.checkpoint,
        layer=options.layer,
        timestep=options.timestep,
        seed=options.seed,
        n_samples=options.samples,
        pooling=options.pooling,
        errors=options.errors,
        max_atoms=options.max_atoms,
        fragment=options.fragment,
        timeout=options.timeout,
        n_jobs=options.jobs,
        device=options.device,
        cache=options.cache,
    )
    summary = featurize_file(
        featurizer,
        options.source,
        options.out,
        smiles_column=options.smiles_column,
        id_column=options.id_column,
        shard_rows=options.shard_rows,
        resume=options.resume,
        engine=options.engine,
        workers=options.workers,
        threads=options.threads,
        quiet=options.quiet,
    )
    if summary.duplicates:
        note(f"{summary.duplicates} rows have the id of an earlier row; all were kept, in order")
    say(f"features  {options.out}: {summary.rows - summary.failed} of {summary.rows} rows")
    say(f"failures  {summary.report}: {summary.failed} rows failed, {summary.notes} noted")


# --- fit, predict, screen ---


@dataclass(frozen=True, kw_only=True)
class _ColumnOptions:
    smiles_column: Annotated[str | None, described("NAME", "(default: smiles)")] = None
    """of a csv or parquet"""
    id_column: Annotated[str | None, described("NAME", "(default: the row's number)")] = None
    """of a csv or parquet"""
    threads: Annotated[int | None, described("INT", "")] = None
    """CPU threads"""


@dataclass(frozen=True, kw_only=True)
class _FitOptions(_ColumnOptions):
    source: Annotated[Positional[Path], arg(metavar="FILE")]
    """labelled molecules: .csv, .sdf (each also .gz) or .parquet"""
    target: Annotated[str, arg(metavar="NAME")]
    """column (of an sdf: property) to predict; rows without a number are left out, and listed"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """folder for the predictor"""
    features: Annotated[str, arg(metavar="NAME[+NAME ...]")] = "midi+smiles"
    """of midi, smiles, chemberta, ecfp4, rdkit2d, usrcat"""
    checkpoint: Annotated[str, arg(metavar="CHECKPOINT")] = SHIPPED_MIDI
    """diffusion model, for midi: shipped weights, run folder, checkpoint folder or Hub id"""
    layer: Annotated[int | None, described("INT", "(default: the middle one)")] = None
    """midi's features are what leaves this layer"""
    timestep: int = 50
    """midi's noise level: 0 (none) .. the model's T"""
    language: Annotated[str, arg(metavar="MODEL")] = SHIPPED_SMILES
    """language model, for smiles: shipped weights, run folder, transformers' folder or Hub id"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """auto: classification where the target has two values"""
    jobs: int = 1
    """processes that make conformers"""
    cache: Annotated[Path | None, described("FILE", "")] = None
    """keeps midi's features between runs"""
    seed: int = 0
    """of the head, noise and conformers"""


def _fit(args: list[str]) -> None:
    about = "Fit a predictor on labelled molecules, and measure it on scaffolds held out."
    options = parse_options(_FitOptions, f"{PROGRAM} fit", args, description=about)

    from molfeat_diffusion.library import fit_file
    from molfeat_diffusion.predict import FeatureBlocks
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    blocks = FeatureBlocks(
        options.features,
        checkpoint=options.checkpoint,
        layer=options.layer,
        timestep=options.timestep,
        language=options.language,
        seed=options.seed,
        n_jobs=options.jobs,
        cache=None if options.cache is None else str(options.cache),
    )
    predictor = fit_file(
        blocks,
        options.source,
        options.target,
        options.out,
        task=options.task,
        smiles_column=options.smiles_column,
        id_column=options.id_column,
        seed=options.seed,
    )
    record = predictor.record
    say(f"predictor  {options.out}: {predictor.task}, {record['rows']} molecules")
    for name, value in record["metrics"].items():
        say(f"{name:<10} {value:.3f}" + ("" if name == "positives" else " (scaffolds held out)"))
    say(f"failures   {options.out / 'failures.csv'}")


@dataclass(frozen=True, kw_only=True)
class _PredictOptions(_ColumnOptions):
    model: Annotated[Positional[Path], arg(metavar="DIR")]
    """predictor, as `fit` wrote it"""
    source: Annotated[Positional[Path], arg(metavar="FILE")]
    """molecules: .csv, .smi, .sdf (each also .gz) or .parquet"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """.csv or .parquet; failed rows are listed in FILE.failures.csv"""
    checkpoint: Annotated[
        str | None, described("DIR", "(default: shipped weights, by its record)")
    ] = None
    """the diffusion model of its midi features, where it was fitted on one of your own"""
    language: Annotated[
        str | None, described("DIR", "(default: shipped weights, by its record)")
    ] = None
    """the language model of its smiles features, where it was fitted on one of your own"""
    cache: Annotated[Path | None, described("FILE", "")] = None
    """keep midi's features here between calls"""
    quiet: bool = False
    """no progress on stderr"""


def _load_predictor(options: Any) -> Any:
    from molfeat_diffusion.predict import Predictor

    cache = None if options.cache is None else str(options.cache)
    models = {"checkpoint": options.checkpoint, "language": options.language}
    return Predictor.load(options.model, **models, cache=cache)


def _predict(args: list[str]) -> None:
    about = "Scores of every molecule of a file; a row that fails has none, and is listed."
    options = parse_options(_PredictOptions, f"{PROGRAM} predict", args, description=about)

    from molfeat_diffusion.library import predict_file
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    rows, failed = predict_file(
        _load_predictor(options),
        options.source,
        options.out,
        smiles_column=options.smiles_column,
        id_column=options.id_column,
        quiet=options.quiet,
    )
    say(f"scores    {options.out}: {rows - failed} of {rows} rows")
    say(f"failures  {options.out}.failures.csv")


@dataclass(frozen=True, kw_only=True)
class _ScreenOptions(_PredictOptions):
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.csv")]
    """picks; beside it FILE.png with their pictures, FILE.csv.json with their diversity, and failed rows"""
    top: int = 50
    """picks"""
    diverse: bool = False
    """of ten times as many best molecules, those that differ most (MaxMin); else the best"""


def _screen(args: list[str]) -> None:
    about = "Pick molecules from a library by a predictor's scores."
    options = parse_options(_ScreenOptions, f"{PROGRAM} screen", args, description=about)

    from molfeat_diffusion.library import screen_file
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    found = screen_file(
        _load_predictor(options),
        options.source,
        options.out,
        top=options.top,
        diverse=options.diverse,
        smiles_column=options.smiles_column,
        id_column=options.id_column,
        quiet=options.quiet,
    )
    for name in ("picks", "best"):
        of = found[name]
        say(
            f"{name:<9} {of['molecules']:.0f} molecules, {of['scaffolds']:.0f} scaffolds, mean Tanimoto "
            f"distance {of['mean_tanimoto_distance']:.3f}, mean score {found['mean_score'][name]:.3f}"
        )
    say(f"written   {options.out}, {options.out.with_suffix('.png')}, {options.out}.json")
    say(f"failures  {options.out}.failures.csv: {found['failed']} of {found['rows']} rows failed")


# --- prepare ---


@dataclass(frozen=True, kw_only=True)
class _PrepareOptions:
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE [SOURCE ...]")]
    """molecules as for train --data: qm9, .npz, .sdf, .smi or .csv"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.npz")]
    """the molecules with their structures, for train --data; FILE.json says what was left out and why"""
    vocabulary: VocabularyName = "geom_no_h"
    """elements and charges: qm9, qm9_no_h, geom or geom_no_h"""
    exclude: Annotated[tuple[str, ...], arg(metavar="[FILE ...]")] = ()
    """files of molecules that must not be among them, however charged or of whatever stereochemistry"""
    max_atoms: int = 100
    """larger molecules are left out (atoms as the vocabulary counts them)"""
    max_molecules: Annotated[int | None, described("INT", "(default: all)")] = None
    """as many, drawn by the seed before conformers are made"""
    seed: int = 0
    """of that and of conformers"""
    jobs: int = 1
    """processes"""
    data_root: Annotated[str | None, described("DIR", "(default: PRIORS_DATA)")] = None
    """folder with the datasets"""
    quiet: bool = False
    """no progress on stderr"""


def _prepare(args: list[str]) -> None:
    about = "Molecules with their structures, made once, to train on."
    options = parse_options(_PrepareOptions, f"{PROGRAM} prepare", args, description=about)
    if options.out.suffix != ".npz" or not options.out.parent.is_dir():
        raise UserError(f"{options.out}: give a .npz file in a folder that exists")

    from molfeat_diffusion.datasets import connectivities, load_molecules
    from molfeat_diffusion.molecules import VOCABULARIES
    from priors_shared.datasets.base import resolve_data_root
    from priors_shared.runs import write_atomically

    shared: dict[str, Any] = {
        "data_root": resolve_data_root(options.data_root),
        "jobs": options.jobs,
    }
    exclude = connectivities(
        options.exclude,
        # A larger one cannot be among them.
        max_heavy_atoms=options.max_atoms,
        **shared,
        quiet=options.quiet,
    )
    molecules, left_out = load_molecules(
        options.sources,
        VOCABULARIES[options.vocabulary],
        max_atoms=options.max_atoms,
        max_molecules=options.max_molecules,
        seed=options.seed,
        exclude=exclude,
        **shared,
        quiet=options.quiet,
    )
    molecules.save(options.out)
    record = {
        "molecules": len(molecules),
        "left_out": dict(left_out.most_common()),
        "excluded_connectivities": len(exclude),
        "config": asdict(options) | {"out": options.out.name},
    }
    path = options.out.with_suffix(".json")
    write_atomically(path, json.dumps(record, indent=2) + "\n")
    say(f"molecules  {options.out}: {len(molecules)}")
    say(f"left out   {path}: {sum(left_out.values())}")


# --- train ---


@dataclass(frozen=True, kw_only=True)
class _RunOptions:
    out: Annotated[Path | None, described("DIR", "(default: runs/PRESET/SEED)")] = None
    """run folder"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""


def _train(args: list[str]) -> None:
    preset, rest, help_text = preset_and_rest("train", args, {**TRAIN, **LANGUAGE})
    if preset in LANGUAGE:
        _train_language(preset, args, rest, help_text)
        return
    default = TRAIN[preset]()
    # --layers, not --model.network.layers.
    flat = arg(name="")
    model = subclass(
        ModelConfig,
        network=Annotated[NetworkConfig, flat],
        noise=Annotated[NoiseConfig, flat],
    )
    training = subclass(TrainConfig, model=Annotated[model, flat], loss=Annotated[LossConfig, flat])
    options_type = subclass(
        _RunOptions, training=Annotated[training, flat], launch=Annotated[LaunchConfig, flat]
    )
    begun = training(**vars(default) | {"model": model(**vars(default.model))})
    options: Any = parse_options(
        options_type,
        f"{PROGRAM} train PRESET",
        rest,
        default=options_type(training=begun, launch=LaunchConfig()),
        description=help_text,
    )
    fields = vars(options.training)
    config = TrainConfig(**fields | {"model": ModelConfig(**vars(fields["model"]))})
    out = options.out or Path("runs") / preset / str(config.seed)

    from molfeat_diffusion.plots import training_figure
    from molfeat_diffusion.training import train
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, "train", *args])
    with Run.create(
        out, asdict(config), command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        train(config, options.launch, run)
        metrics = run.metrics()
        figure: Any = training_figure(metrics, title=preset)
        plot = run.save_figure("training", figure)
    say(f"model     {out / 'model'}: validation loss {metrics[-1]['val_loss']:.4g}")
    say(f"plot      {plot}")
    say(f"left out  {out / 'left_out.tsv'}")
    say(f"next      {PROGRAM} sample {out} or {PROGRAM} featurize FILE --checkpoint {out}")


def _train_language(preset: str, args: list[str], rest: list[str], help_text: str) -> None:
    flat = arg(name="")
    options_type = subclass(
        _RunOptions,
        training=Annotated[LanguageConfig, flat],
        launch=Annotated[LaunchConfig, flat],
    )
    options: Any = parse_options(
        options_type,
        f"{PROGRAM} train PRESET",
        rest,
        default=options_type(training=LANGUAGE[preset](), launch=LaunchConfig()),
        description=help_text,
    )
    out = options.out or Path("runs") / preset / str(options.training.seed)

    from molfeat_diffusion.language_training import train_language
    from molfeat_diffusion.plots import language_figure
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, "train", *args])
    with Run.create(
        out,
        asdict(options.training),
        command=command,
        resume=options.resume,
        quiet=options.launch.quiet,
    ) as run:
        train_language(options.training, options.launch, run)
        metrics = run.metrics()
        figure: Any = language_figure(metrics, title=preset)
        plot = run.save_figure("training", figure)
    last = metrics[-1]
    say(f"model     {out / 'model'}: {100 * last['val_accuracy']:.1f} % of hidden tokens right")
    say(f"plot      {plot}")
    say(f"left out  {out / 'left_out.tsv'}")


# --- sample, eval ---


@dataclass(frozen=True, kw_only=True)
class _DrawOptions:
    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """shipped weights, run folder, checkpoint folder or Hugging Face Hub id of a diffusion model"""
    count: Annotated[int, arg(aliases=["-n"])] = 100
    """molecules"""
    steps: Annotated[int | None, described("INT", "(default: the model's T)")] = None
    """reverse steps; fewer are faster, each spans several of the T"""
    metrics: Literal["fixed", "midi"] = "fixed"
    """midi: as MiDi's code counts (an aromatic bond as 1, the largest fragment valid)"""
    batch: int = 50
    """molecules at a time"""
    seed: int = 0
    """of all draws"""
    device: str = "cpu"
    """where the network runs: cpu, cuda, mps"""
    threads: Annotated[int | None, described("INT", "")] = None
    """CPU threads"""
    quiet: bool = False
    """no progress on stderr"""


def _check_counts(options: _DrawOptions, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be 1 or more")


def _drawn(
    options: _DrawOptions,
    model: MiDi,
    digest: str,
    reference: Sequence[Chem.Mol] | None,
    command: Sequence[str],
    *,
    atoms: int | None = None,
) -> tuple[list[Chem.Mol], dict[str, Any]]:
    """Molecules, and what is stored of them."""
    from molfeat_diffusion.metrics import sampling_metrics
    from molfeat_diffusion.sampling import sample_molecules
    from priors_shared.devices import choose_device, hardware

    molecules = sample_molecules(
        model.to(choose_device(options.device)),
        options.count,
        steps=options.steps,
        atoms=atoms,
        batch=options.batch,
        seed=options.seed,
        quiet=options.quiet,
    )
    found = sampling_metrics(
        molecules,
        hydrogens=model.vocabulary.hydrogens,
        reference=reference,
        variant=options.metrics,
    )
    return molecules, {
        "metrics": found,
        "variant": options.metrics,
        "digest": digest,
        "molecules": options.count,
        "steps": options.steps or model.timesteps,
        "seed": options.seed,
        "hardware": hardware(),
        "command": shlex.join([PROGRAM, *command]),
    }


def _write_metrics(path: Path, result: dict[str, Any]) -> None:
    from priors_shared.runs import write_atomically

    write_atomically(path, json.dumps(result, indent=2) + "\n")
    for name, value in result["metrics"].items():
        say(f"{name:<16}{value:.4g}" if name.startswith("w1") else f"{name:<16}{100 * value:.1f} %")
    say(f"metrics         {path}")


@dataclass(frozen=True, kw_only=True)
class _SampleOptions(_DrawOptions):
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.sdf")] = Path("molecules.sdf")
    """the molecules, valid or not; metrics go to FILE.json"""
    atoms: Annotated[int | None, described("INT", "(default: as the training data)")] = None
    """atoms of every molecule"""
    reference: Annotated[Path | None, described("FILE.sdf", "")] = None
    """training molecules: also measure novelty and distances of distributions"""


def _sample(args: list[str]) -> None:
    about = "Draw molecules from a diffusion model, and measure how good they are."
    options = parse_options(_SampleOptions, f"{PROGRAM} sample", args, description=about)
    _check_counts(options, "count", "batch", "atoms")
    if not options.out.parent.is_dir():
        raise UserError(f"{options.out}: the folder {options.out.parent} does not exist")

    from molfeat_diffusion.checkpoint import load_model
    from molfeat_diffusion.sampling import read_reference, write_sdf
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    model, record = load_model(options.checkpoint)
    reference = None if options.reference is None else read_reference(options.reference)
    command = ["sample", *args]
    molecules, result = _drawn(
        options, model, record["digest"], reference, command, atoms=options.atoms
    )
    write_sdf(options.out, molecules)
    result["checkpoint"] = options.checkpoint
    _write_metrics(options.out.with_name(f"{options.out.name}.json"), result)
    say(f"molecules       {options.out}")


@dataclass(frozen=True, kw_only=True)
class _EvalOptions(_DrawOptions):
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.json")] = Path("sampling.json")
    """metrics; FILE.png shows some of the molecules"""
    data: Annotated[tuple[str, ...], arg(metavar="[SOURCE ...]")] = ()
    """training molecules (as train --data): also measure novelty and distances of distributions"""
    data_root: Annotated[str | None, described("DIR", "(default: PRIORS_DATA)")] = None
    """folder with the datasets"""


def _eval(args: list[str]) -> None:
    about = "Measure how good a diffusion model's molecules are, and draw some of them."
    options = parse_options(_EvalOptions, f"{PROGRAM} eval", args, description=about)
    _check_counts(options, "count", "batch")
    if options.out.suffix != ".json" or not options.out.parent.is_dir():
        raise UserError(f"{options.out}: give a .json file in a folder that exists")

    from molfeat_diffusion.checkpoint import load_model
    from molfeat_diffusion.datasets import load_molecules
    from molfeat_diffusion.molecules import collate, mols_from_dense
    from molfeat_diffusion.plots import save_molecules
    from priors_shared.datasets.base import resolve_data_root
    from priors_shared.devices import set_threads

    set_threads(options.threads)
    model, record = load_model(options.checkpoint)
    reference = None
    if options.data:
        known, _ = load_molecules(
            options.data,
            model.vocabulary,
            data_root=resolve_data_root(options.data_root),
            max_atoms=10_000,
            quiet=options.quiet,
        )
        graphs = (known.graph(i) for i in range(len(known)))
        reference = [mols_from_dense(collate([g]), model.vocabulary)[0] for g in graphs]
    command = ["eval", *(Path(a).name for a in args)]
    molecules, result = _drawn(options, model, record["digest"], reference, command)
    trained = record.get("trained", {})
    result |= {
        "checkpoint": Path(options.checkpoint).name,
        "trained_updates": trained.get("step", trained.get("updates")),
        "reference": [Path(source).name for source in options.data],
    }
    _write_metrics(options.out, result)
    picture = options.out.with_suffix(".png")
    save_molecules(picture, molecules[:24])
    say(f"picture         {picture}")


# --- export ---


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """run folder of train; of a training that goes on, its last checkpoint is taken"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """folder for weights, model card (README.md) and training curve; its name is the weights'"""
    results: Annotated[tuple[Path, ...], arg(metavar="[FILE.json ...]")] = ()
    """what eval --out wrote of these weights, for the card"""
    half: bool = False
    """store them in float16: half the size"""


def _export(args: list[str]) -> None:
    about = "Write a training's weights to give away, with model card and training curve."
    options = parse_options(_ExportOptions, f"{PROGRAM} export", args, description=about)

    from molfeat_diffusion.export import export_run
    from molfeat_diffusion.language_training import export_language, is_language_run

    if is_language_run(options.run):
        if options.results:
            raise UserError("--results: of diffusion models alone")
        step = export_language(options.run, options.out)
    else:
        step = export_run(options.run, options.out, options.results, half=options.half)
    say(f"weights   {options.out}: after {step:,} updates")


# --- import-midi ---


@dataclass(frozen=True, kw_only=True)
class _ImportOptions:
    source: Annotated[Positional[Path], arg(metavar="FILE.ckpt")]
    """a Lightning checkpoint of the public MiDi code"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="DIR")]
    """folder for the checkpoint"""
    schedule: Annotated[
        Literal["adaptive", "uniform"] | None, described("{adaptive,uniform}", "(default: its own)")
    ] = None
    """noise schedule, where the file does not say which"""
    data: Annotated[tuple[str, ...], arg(metavar="[SOURCE ...]")] = ()
    """its training molecules (as train --data): for marginals and sizes, which the file lacks and sampling
    needs; features need neither"""
    data_root: Annotated[str | None, described("DIR", "(default: PRIORS_DATA)")] = None
    """folder with the datasets"""
    jobs: int = 1
    """processes that make conformers"""


def _import_midi(args: list[str]) -> None:
    about = "Import a published MiDi checkpoint, without running any of its code."
    options = parse_options(_ImportOptions, f"{PROGRAM} import-midi", args, description=about)
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"{options.out} is not empty: use another --out")

    from molfeat_diffusion.checkpoint import import_midi, save_model

    schedules = {None: None, "adaptive": NoiseConfig(), "uniform": UNIFORM}
    model = import_midi(options.source, noise=schedules[options.schedule])
    if options.data:
        from molfeat_diffusion.datasets import load_molecules
        from priors_shared.datasets.base import resolve_data_root

        molecules, _ = load_molecules(
            options.data,
            model.vocabulary,
            data_root=resolve_data_root(options.data_root),
            max_atoms=10_000,
            jobs=options.jobs,
        )
        model.marginals, model.knows_marginals = molecules.marginals(), True
        model.sizes = molecules.size_histogram()
    save_model(options.out, model, imported=options.source.name)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"model     {options.out}: {parameters:,} parameters, vocabulary {model.vocabulary.name}")
    say(f"schedule  {dataclasses.asdict(model.config.noise)}")
    if not options.data:
        note(
            "no marginals: it gives features (their noise draws classes uniformly), but no samples; "
            "--data adds them"
        )


# --- reproduce ---


def _reproduce(args: list[str]) -> None:
    def load() -> Any:
        from molfeat_diffusion.experiments import EXPERIMENTS

        return EXPERIMENTS

    run_experiments(PROGRAM, args, ("table-5.1",), load)


# --- presets ---


def _presets(args: list[str]) -> None:
    parse_options(_NoOptions, f"{PROGRAM} presets", args, description="List the presets.")
    presets = {**TRAIN, **LANGUAGE}
    width = max(map(len, presets))
    say(f"{PROGRAM} train")
    for name, preset in presets.items():
        say(f"  {name:<{width}}  {(preset.__doc__ or '').strip()}")


@dataclass(frozen=True, kw_only=True)
class _NoOptions:
    pass


VERBS: Verbs = {
    "featurize": (_featurize, "features of every molecule of a file"),
    "prepare": (_prepare, "make the structures of molecules to train on, once"),
    "fit": (_fit, "fit a predictor on labelled molecules"),
    "predict": (_predict, "scores of every molecule of a file"),
    "screen": (_screen, "pick molecules by their scores, diverse if asked"),
    "train": (_train, "train a diffusion model of molecules, or a language model of SMILES"),
    "sample": (_sample, "draw molecules from a diffusion model, with metrics"),
    "eval": (_eval, "sampling metrics of a diffusion model, and a picture"),
    "export": (_export, "write a training's weights with a model card"),
    "import-midi": (_import_midi, "import a published MiDi checkpoint"),
    "reproduce": (_reproduce, "run the experiments of the thesis"),
    "presets": (_presets, "list the presets"),
}
