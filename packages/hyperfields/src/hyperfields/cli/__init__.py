"""The console script `hyperfields`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from hyperfields import __version__
from hyperfields.config import (
    SHIPPED_MODEL,
    DistillConfig,
    FieldConfig,
    FinetuneConfig,
    GuidanceConfig,
    LaunchConfig,
    ModelConfig,
    SegmentConfig,
    TeachConfig,
    UNetConfig,
)
from hyperfields.presets import DISTILL, FINETUNE, GUIDANCE, SEGMENT, TEACH
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
    from hyperfields.data.views import PosedViews
    from hyperfields.fields.field import Field
    from hyperfields.pretrained import HyperFields

PROGRAM = "hyperfields"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    what = "Text to 3D in one forward pass, from a hypernetwork that writes a NeRF's weights."
    run_program(PROGRAM, __version__, what, VERBS, argv)


# --- train and distill ---


@dataclass(frozen=True, kw_only=True)
class _RunOptions:
    out: Annotated[
        Path | None, arg(aliases=["-o"]), described("DIR", "(default: runs/PRESET/SEED)")
    ] = None
    """run folder"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""


@dataclass(frozen=True, kw_only=True)
class _DistillOptions(_RunOptions):
    teachers: Annotated[Positional[Path], arg(metavar="TEACHERS")]
    """folder with one subfolder for each prompt: trained NeRFs, or posed renders with transforms.json"""


def _train(args: list[str]) -> None:
    """Distillation from the exact renders of a preset's procedural scenes; or what else a preset trains."""
    for presets, train in ((GUIDANCE, _train_guidance), (SEGMENT, _train_segmentation)):
        if args[:1] and args[0] in presets:
            train(args)
            return
    preset, config, options = _distill_options("train", args, _RunOptions)

    def teachers() -> dict[str, PosedViews]:
        from hyperfields.data.views import procedural_views
        from hyperfields.training.distillation import training_cameras

        return procedural_views(config.prompts, training_cameras(config))

    _run_distillation("train", args, preset, config, options, teachers)


def _train_guidance(args: list[str]) -> None:
    preset, rest, help_text = preset_and_rest("train", args, GUIDANCE)
    default = GUIDANCE[preset]()
    unet = subclass(UNetConfig)
    training = subclass(
        GuidanceConfig,
        unet=(Annotated[unet, arg(name="")], unet(**vars(default.unet))),
        prompts=(Annotated[tuple[str, ...], tyro.conf.Suppress], default.prompts),
    )
    values = {k: v for k, v in vars(default).items() if k not in ("unet", "prompts")}
    options_type = subclass(
        _RunOptions,
        training=(Annotated[training, arg(name="")], training(**values)),
        launch=(Annotated[LaunchConfig, arg(name="")], LaunchConfig()),
    )
    options: Any = parse_options(
        options_type, f"{PROGRAM} train PRESET", rest, description=help_text
    )
    chosen = vars(options.training)
    config = GuidanceConfig(**{**chosen, "unet": UNetConfig(**vars(chosen["unet"]))})
    out = options.out or Path("runs") / preset / str(config.seed)

    from hyperfields.guidance.procedural import draw, load_procedural
    from hyperfields.plots import guidance_figure, images_figure
    from hyperfields.training.guidance import train_guidance
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, "train", *args])
    with Run.create(
        out, asdict(config), command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        train_guidance(config, options.launch, run)
        figure: Any = guidance_figure(run.metrics(), title=preset)
        run.save_figure("training", figure)
        prompts = [f"{p}, {view} view" for p in config.prompts[::6] for view in ("front", "side")]
        images = draw(load_procedural(out), prompts, seed=config.seed)
        sheet: Any = images_figure(images, prompts)
        run.save_figure("images", sheet)
    say(f"guidance  {out / 'model'}")
    say(f"images    {run.plots / 'images.png'}")
    say(
        f"next      {PROGRAM} teach teacher_unet_cpu {shlex.quote(config.prompts[0])} --guidance {out}"
    )


def _train_segmentation(args: list[str]) -> None:
    preset, rest, help_text = preset_and_rest("train", args, SEGMENT)
    default = SEGMENT[preset]()
    field = subclass(FieldConfig)
    model = subclass(ModelConfig, field=Annotated[field, arg(name="")])
    training = subclass(
        SegmentConfig, model=(Annotated[model, arg(name="")], _as(model, default.model, field))
    )
    values = {k: v for k, v in vars(default).items() if k != "model"}
    options_type = subclass(
        _RunOptions,
        training=(Annotated[training, arg(name="")], training(**values)),
        launch=(Annotated[LaunchConfig, arg(name="")], LaunchConfig()),
    )
    options: Any = parse_options(
        options_type, f"{PROGRAM} train PRESET", rest, description=help_text
    )
    chosen = vars(options.training)
    written = vars(chosen["model"])
    model_config = ModelConfig(**{**written, "field": FieldConfig(**vars(written["field"]))})
    config = SegmentConfig(**{**chosen, "model": model_config})
    out = options.out or Path("runs") / preset / str(config.seed)

    from hyperfields.plots import distillation_figure
    from hyperfields.segmentation.evaluation import write_novel_scenes
    from hyperfields.segmentation.training import train_segmentation
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, "train", *args])
    with Run.create(
        out, asdict(config), command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        trained = train_segmentation(config, options.launch, run)
        figure: Any = distillation_figure(run.metrics(), title=preset)
        run.save_figure("training", figure)
        sheet = run.plots / "novel_scenes.png"
        write_novel_scenes(trained, config, sheet)
    say(f"model     {out / 'model'}")
    say(f"scenes    {sheet}")
    say(f"next      {PROGRAM} segment {out} VIEWS, a folder of posed renders with transforms.json")


def _distill(args: list[str]) -> None:
    """Distillation from a folder of teachers."""
    preset, config, options = _distill_options("distill", args, _DistillOptions)

    def teachers() -> dict[str, PosedViews]:
        from hyperfields.data.teachers import read_teachers
        from hyperfields.training.distillation import training_cameras

        cameras = training_cameras(config)
        return read_teachers(options.teachers, cameras, pose_scale=config.pose_scale)

    _run_distillation("distill", args, preset, config, options, teachers)


def _distill_options(verb: str, args: list[str], base: type[Any]) -> tuple[str, DistillConfig, Any]:
    known: dict[str, Callable[[], Any]] = {**DISTILL}
    if verb == "train":
        known |= {**GUIDANCE, **SEGMENT}
    preset, rest, help_text = preset_and_rest(verb, args, known)
    default = DISTILL[preset]()
    field = subclass(FieldConfig)
    model = subclass(ModelConfig, field=Annotated[field, arg(name="")])
    hidden = Annotated[tuple[str, ...], tyro.conf.Suppress]
    training = subclass(
        DistillConfig,
        model=(Annotated[model, arg(name="")], _as(model, default.model, field)),
        prompts=(hidden, default.prompts),
        held_out=(hidden, default.held_out if verb == "train" else ()),
    )
    values = {k: v for k, v in vars(default).items() if k not in ("model", "prompts", "held_out")}
    options_type = subclass(
        base,
        training=(Annotated[training, arg(name="")], training(**values)),
        launch=(Annotated[LaunchConfig, arg(name="")], LaunchConfig()),
    )
    options: Any = parse_options(
        options_type, f"{PROGRAM} {verb} PRESET", rest, description=help_text
    )
    chosen = vars(options.training)
    written = vars(chosen["model"])
    model_config = ModelConfig(**{**written, "field": FieldConfig(**vars(written["field"]))})
    return preset, DistillConfig(**{**chosen, "model": model_config}), options


def _as(model: type[Any], default: ModelConfig, field: type[Any]) -> Any:
    return model(**{**vars(default), "field": field(**vars(default.field))})


def _run_distillation(
    verb: str, args: list[str], preset: str, config: DistillConfig, options: Any, teachers: Any
) -> None:
    out = options.out or Path("runs") / preset / str(config.seed)

    from hyperfields.output.sheet import write_contact_sheet
    from hyperfields.plots import distillation_figure
    from hyperfields.training.distillation import distill
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, verb, *args])
    record = asdict(config) | {"teachers": str(getattr(options, "teachers", "exact"))}
    with Run.create(
        out, record, command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        model = distill(config, teachers(), options.launch, run)
        metrics = run.metrics()
        figure: Any = distillation_figure(metrics, title=preset)
        run.save_figure("training", figure)
        shown = [*model.prompts[:: max(1, len(model.prompts) // 4)][:4], *config.held_out[:4]]
        labels = [p + (" (held out)" if p in config.held_out else "") for p in shown]
        sheet = run.plots / "scenes.png"
        write_contact_sheet(model.generate_all(shown), labels, sheet, size=64, samples=48)
    say(f"model     {out / 'model'}: {metrics[-1]['psnr']:.1f} dB on training rays")
    say(f"scenes    {sheet}")
    say(f"next      {PROGRAM} generate {shlex.quote(model.prompts[0])} --model {out}")


# --- generate ---


@dataclass(frozen=True, kw_only=True)
class _GenerateOptions:
    prompt: Annotated[Positional[str | None], arg(metavar="[PROMPT]")] = None
    """what to generate, such as 'a red chair'"""
    prompts: Annotated[Path | None, described("FILE", "(default: PROMPT alone)")] = None
    """text file in UTF-8, one prompt a line"""
    model: Annotated[str, arg(metavar="MODEL")] = SHIPPED_MODEL
    """shipped weights, run folder, checkpoint folder or Hugging Face Hub id"""
    out: Annotated[Path, arg(metavar="PATH", aliases=["-o"])] = Path("generated")
    """a mesh (.glb, .ply, .obj), picture (.png) or film (.mp4, .gif); or a folder, for one file per prompt and a
    contact sheet"""
    format: Literal["glb", "ply", "obj", "gif", "mp4", "png"] = "glb"
    """of the files in a folder: meshes, films or pictures"""
    turntable: Annotated[Path | None, described("FILE", "(default: none)")] = None
    """film of the first scene, too: .mp4 or .gif"""
    resolution: int = 128
    """points along an edge of the grid that meshes are made on"""
    size: int = 192
    """pixels along each side of pictures and films"""
    samples: int = 96
    """points along a ray"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""


def _generate(args: list[str]) -> None:
    about = "Generate scenes from prompts, each in one forward pass."
    options = parse_options(_GenerateOptions, f"{PROGRAM} generate", args, description=about)
    prompts = _prompts(options.prompt, options.prompts)
    _check_sizes(options)
    kind = _output_kind(options.out, len(prompts))
    if options.turntable is not None and options.turntable.suffix not in _FILMS:
        raise UserError(f"--turntable {options.turntable}: use one of {', '.join(_FILMS)}")

    model = _load_model(options.model, options.device)
    for prompt in prompts:
        words = model.unknown_words(prompt)
        if words:
            note(
                f"{prompt!r} is out of distribution: no training prompt has {' or '.join(words)}; "
                "what follows is the nearest scene"
            )
    fields = model.generate_all(prompts)
    if kind == "folder":
        _write_folder(fields, options)
    elif kind == "picture":
        _sheet(fields, prompts, options.out, options)
    else:
        _write(fields[0], options.out, options)
    if options.turntable is not None:
        _film(fields[0], options.turntable, options)


_MESHES, _FILMS = (".glb", ".ply", ".obj"), (".mp4", ".gif")


def _check_sizes(options: _GenerateOptions | _ExportOptions) -> None:
    for name in ("resolution", "size", "samples"):
        if getattr(options, name) < 2:
            raise UserError(f"--{name} {getattr(options, name)}: give 2 or more")


def _output_kind(out: Path, prompts: int) -> str:
    suffix = out.suffix.lower()
    kinds = dict.fromkeys(_MESHES, "mesh") | dict.fromkeys(_FILMS, "film") | {".png": "picture"}
    if out.is_dir() or (not suffix and not out.exists()):
        return "folder"
    if suffix not in kinds:
        raise UserError(
            f"--out {out}: unknown format {suffix or 'of a file without suffix'}: use one of "
            f"{', '.join(kinds)}, or a folder"
        )
    if prompts > 1 and kinds[suffix] != "picture":
        raise UserError(
            f"--out {out}: {prompts} prompts need a folder, or .png for a contact sheet"
        )
    return kinds[suffix]


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise UserError("give a prompt, such as 'a red chair', or --prompts FILE")
    if file is None:
        if not str(prompt).strip():
            raise UserError("the prompt is empty: write what to generate, such as 'a red chair'")
        return [str(prompt)]
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--prompts {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {line}: not UTF-8: save the file as UTF-8") from None
    lines = text.splitlines()
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{file}: holds no prompt: write one a line")
    if len(prompts) < len(lines):
        note(f"{file}: {len(lines) - len(prompts)} blank lines left out")
    return prompts


def _write_folder(fields: list[Field], options: _GenerateOptions) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for field in fields:
        name = base = _slug(field.prompt)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        _write(field, options.out / f"{name}.{options.format}", options)
    _sheet(fields, [f.prompt for f in fields], options.out / "contact_sheet.png", options)


def _write(field: Field, path: Path, options: _GenerateOptions | _ExportOptions) -> None:
    if path.suffix.lower() in _MESHES:
        _mesh(field, path, options.resolution)
    elif path.suffix.lower() in _FILMS:
        _film(field, path, options)
    else:
        _sheet([field], [field.prompt], path, options)


def _mesh(field: Field, path: Path, resolution: int) -> None:
    from hyperfields.output.mesh import write_mesh

    try:
        mesh = field.to_mesh(resolution)
    except UserError as error:
        raise UserError(f"{field.prompt!r}: {error}") from None
    write_mesh(mesh, path)
    say(f"mesh      {path}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")


def _sheet(
    fields: list[Field], labels: list[str], path: Path, options: _GenerateOptions | _ExportOptions
) -> None:
    from hyperfields.output.sheet import write_contact_sheet

    write_contact_sheet(fields, labels, path, size=options.size, samples=options.samples)
    say(f"picture   {path}")


def _film(field: Field, path: Path, options: _GenerateOptions | _ExportOptions) -> None:
    from hyperfields.output.video import write_turntable

    written = write_turntable(field.bake(), path, size=options.size, samples=options.samples)
    if written != path:
        note(f"{path}: ffmpeg is missing, so the film is a GIF (pip install imageio-ffmpeg)")
    say(f"film      {written}")


def _load_model(name: str, device: str = "cpu") -> HyperFields:
    from hyperfields.pretrained import HyperFields
    from priors_shared.devices import launch

    return HyperFields.from_pretrained(name, launch(device).device)


# --- teach ---


@dataclass(frozen=True, kw_only=True)
class _TeachOptions:
    out: Annotated[Path, arg(metavar="DIR", aliases=["-o"])] = Path("teachers")
    """folder of teachers: each gets a run folder of its own below it"""
    prompts: Annotated[Path | None, described("FILE", "(default: PROMPT alone)")] = None
    """text file in UTF-8, one prompt a line: teachers of all, one after another"""
    resume: bool = False
    """go on with the runs in the folder, or begin them where there are none"""


def _teach(args: list[str]) -> None:
    about = (
        "Stage 1: optimise a NeRF of one prompt by score distillation. See the presets for sizes."
    )
    options = _score_options("teach", args, TEACH, _TeachOptions, about, optional=True)
    chosen = vars(options.training)
    prompts = _prompts(chosen["prompt"], options.prompts)
    slugs = [_slug(prompt) for prompt in prompts]
    for i, slug in enumerate(slugs):
        if slug in slugs[:i]:
            raise UserError(
                f"{prompts[i]!r} and {prompts[slugs.index(slug)]!r} would share the folder {slug}: leave one out"
            )
    field = FieldConfig(**vars(chosen["field"]))

    from hyperfields.output.sheet import write_contact_sheet
    from hyperfields.training.score_distillation import teach
    from priors_shared.runs import Run

    command = shlex.join([PROGRAM, "teach", *args])
    for prompt, slug in zip(prompts, slugs, strict=True):
        config = TeachConfig(**{**chosen, "field": field, "prompt": prompt})
        out = options.out / slug
        with Run.create(
            out, asdict(config), command=command, resume=options.resume, quiet=options.launch.quiet
        ) as run:
            field_ = teach(config, options.launch, run)
            sheet = run.plots / "scene.png"
            write_contact_sheet([field_], [prompt], sheet, size=96, samples=64)
        say(f"teacher   {out / 'model'}")
        say(f"scene     {sheet}")
    say(f"next      {PROGRAM} distill PRESET {options.out}")


# --- finetune ---


@dataclass(frozen=True, kw_only=True)
class _FinetuneOptions:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """what to begin with: run folder, checkpoint folder or Hugging Face Hub id"""
    out: Annotated[
        Path | None, arg(aliases=["-o"]), described("DIR", "(default: finetuned/PROMPT)")
    ] = None
    """run folder; the tuned model is written below it"""
    resume: bool = False
    """go on with the run in the folder, or begin it where there is none"""


def _finetune(args: list[str]) -> None:
    about = "Tune a model to one prompt by score distillation. See the presets for sizes."
    options = _score_options("finetune", args, FINETUNE, _FinetuneOptions, about)
    config = FinetuneConfig(**vars(options.training))

    from hyperfields.output.sheet import write_contact_sheet
    from hyperfields.training.finetuning import finetune
    from priors_shared.runs import Run

    model = _load_model(options.model)
    out = options.out or Path("finetuned") / _slug(config.prompt)
    command = shlex.join([PROGRAM, "finetune", *args])
    record = asdict(config) | {"model": options.model}
    with Run.create(
        out, record, command=command, resume=options.resume, quiet=options.launch.quiet
    ) as run:
        tuned = finetune(config, model, options.launch, run)
        sheet = run.plots / "scene.png"
        scenes = [model.generate(config.prompt), tuned.generate(config.prompt)]
        write_contact_sheet(scenes, ["before", "after"], sheet, size=96, samples=64)
    say(f"model     {out / 'model'}")
    say(f"scene     {sheet}")
    say(f"next      {PROGRAM} generate {shlex.quote(config.prompt)} --model {out}")


_Prompt = Annotated[Positional[str], arg(metavar="PROMPT")]
_OptionalPrompt = Annotated[
    Positional[str | None], described("[PROMPT]", "(default: those of --prompts)")
]


def _score_options(
    verb: str,
    args: list[str],
    presets: Mapping[str, Callable[[], Any]],
    base: type[Any],
    about: str,
    *,
    optional: bool = False,
) -> Any:
    """Options of a command of score distillation; it may begin with a preset, else the first is meant.

    optional: whether the prompt may be left out.
    """
    named = bool(args) and args[0] in presets
    default = presets[args[0] if named else next(iter(presets))]()
    values = vars(default) | {"prompt": None if optional else tyro.MISSING}
    fields: dict[str, Any] = {
        "prompt": (_OptionalPrompt if optional else _Prompt, values["prompt"])
    }
    if "field" in values:
        field = subclass(FieldConfig)
        values["field"] = field(**vars(default.field))
        fields["field"] = (Annotated[field, arg(name="")], values["field"])
    training = subclass(type(default), **fields)
    options_type = subclass(
        base,
        training=(Annotated[training, arg(name="")], training(**values)),
        launch=(Annotated[LaunchConfig, arg(name="")], LaunchConfig()),
    )
    program = f"{PROGRAM} {verb} [{'|'.join(presets)}]"
    options: Any = parse_options(options_type, program, args[named:], description=about)
    if not optional and not options.training.prompt.strip():
        raise UserError("the prompt is empty: write what to show, such as 'a red chair'")
    return options


def _slug(prompt: str) -> str:
    return re.sub(r"\W+", "-", prompt.lower()).strip("-") or "scene"


# --- export ---


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    source: Annotated[Positional[str], arg(metavar="MODEL")]
    """a model, or a trained NeRF: run folder, checkpoint folder or Hugging Face Hub id"""
    prompt: Annotated[Positional[str | None], arg(metavar="[PROMPT]")] = None
    """of a model: which scene"""
    out: Annotated[Path, arg(metavar="PATH", aliases=["-o"])] = Path("field")
    """folder for a NeRF with weights of its own; or a mesh (.glb, .ply, .obj), picture (.png) or film (.mp4, .gif)"""
    resolution: int = 128
    """points along an edge of the grid that meshes are made on"""
    size: int = 192
    """pixels along each side of pictures and films"""
    samples: int = 96
    """points along a ray"""


def _export(args: list[str]) -> None:
    about = (
        "Write one scene: a NeRF that needs no hypernetwork any more, a mesh, a picture or a film."
    )
    options = parse_options(_ExportOptions, f"{PROGRAM} export", args, description=about)
    _check_sizes(options)
    if options.out.suffix:
        _output_kind(options.out, 1)
    from hyperfields.pretrained import load_field

    field = load_field(options.source, options.prompt)
    if options.out.suffix:
        _write(field, options.out, options)
        return
    field.save(options.out)
    count = sum(p.numel() for p in [*field.weights, *field.biases])
    grid = sum(p.numel() for p in field.encoding.parameters())
    say(f"field     {options.out}: {count:,} weights of its own, {grid:,} of the position encoding")


# --- eval ---


@dataclass(frozen=True, kw_only=True)
class _EvalOptions:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """run folder, checkpoint folder or Hugging Face Hub id"""
    teachers: Annotated[Positional[Path | None], arg(metavar="[TEACHERS]")] = None
    """folder of teachers to compare with (default: exact renders of the procedural scenes)"""
    views: int = 6
    """cameras around each scene"""
    size: int = 32
    """pixels along each side"""
    samples: int = 64
    """points along a ray"""
    pose_scale: float = 1.0
    """see distill"""
    clip: Annotated[str | None, described("NAME", "(default: CLIP is not asked)")] = None
    """also look each render's prompt up by CLIP, as Table 4.1: clip, a Hugging Face id or a folder"""
    out: Annotated[Path | None, described("FILE.json", "(default: not written)")] = None
    """result, scene by scene"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""


def _eval(args: list[str]) -> None:
    about = (
        "PSNR and silhouette IoU of generated scenes; for procedural scenes also whether colour and shape "
        "are right, held-out combinations apart; with --clip how often CLIP finds the prompt."
    )
    options = parse_options(_EvalOptions, f"{PROGRAM} eval", args, description=about)
    if min(options.views, options.size, options.samples) < 1:
        raise UserError("--views, --size and --samples must be 1 or more")
    from hyperfields.conditioning.clip import Clip
    from hyperfields.evaluation import clip_retrieval, evaluate
    from priors_shared.runs import environment, write_atomically

    model = _load_model(options.model, options.device)
    clip = Clip(options.clip, device=model.device) if options.clip is not None else None
    found = evaluate(
        model,
        views=options.views,
        size=options.size,
        samples=options.samples,
        teachers=options.teachers,
        pose_scale=options.pose_scale,
    )
    for group, means in found["means"].items():
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        say(f"{group:<9} {numbers}")
    if clip is not None:
        percent = clip_retrieval(
            model, clip, views=options.views, size=options.size, samples=options.samples
        )
        for group, ranks in percent.items():
            numbers = "  ".join(f"{rank} {share:.1f} %" for rank, share in ranks.items())
            say(f"{group:<9} found by CLIP: {numbers}")
        found["clip"] = {"model": clip.name, "percent": percent}
    if options.out is not None:
        record = {
            "model": options.model,
            "trained": model.trained,
            **{"views": options.views, "size": options.size, "samples": options.samples},
            **found,
            "command": shlex.join([PROGRAM, "eval", *args]),
            "environment": environment(),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, json.dumps(record, indent=2) + "\n")
        say(f"result    {options.out}")


# --- segment ---


@dataclass(frozen=True, kw_only=True)
class _SegmentOptions:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """shipped weights (segmentation-cpu), run folder, checkpoint folder or Hugging Face Hub id"""
    views: Annotated[Positional[Path], arg(metavar="VIEWS")]
    """folder with posed renders of one object and transforms.json; four views are best"""
    out: Annotated[Path, arg(metavar="PATH", aliases=["-o"])] = Path("labels.ply")
    """mesh in the colours of its parts (.ply, .glb, .obj); a .ply holds the labels as numbers too"""
    pose_scale: float = 1.0
    """what camera positions are multiplied by, to bring the object into [-1, 1]^3"""
    resolution: int = 128
    """points along an edge of the grid that the mesh is made on"""
    size: int = 128
    """pixels along each side of the picture"""


def _segment(args: list[str]) -> None:
    about = "Segment an object into parts, in 3D, from a few posed views, in one forward pass."
    options = parse_options(_SegmentOptions, f"{PROGRAM} segment", args, description=about)
    if options.out.suffix.lower() not in _MESHES:
        raise UserError(f"--out {options.out}: unknown format: use one of {', '.join(_MESHES)}")
    if options.resolution < 2 or options.size < 2:
        raise UserError("--resolution and --size must be 2 or more")
    if not options.views.is_dir():
        raise UserError(f"{options.views}: no such folder of posed renders")
        from hyperfields.output.mesh import write_mesh
    from hyperfields.data.posed_renders import read_views
    from hyperfields.segmentation.labels import labelled_mesh, write_labelled_views
    from hyperfields.segmentation.pretrained import HyperSegmentationFields

    model = HyperSegmentationFields.from_pretrained(options.model)
    views = read_views(options.views, pose_scale=options.pose_scale)
    wanted = model.trained.get("input_views", len(views.cameras))
    if len(views.cameras) != wanted:
        note(f"{options.views}: {len(views.cameras)} views; the model was trained with {wanted}")
    field = model.generate(views.images, views.cameras, views.prompt)
    mesh, labels = labelled_mesh(field, options.resolution)
    write_mesh(mesh, options.out)
    sheet = options.out.with_suffix(".png")
    write_labelled_views([field], [views.prompt], sheet, size=options.size)
    counts = Counter(labels.tolist())
    for index, part in enumerate(model.parts):
        share = counts[index] / len(mesh.vertices)
        if share > 0.01:
            say(f"part      {index:>2} {part}: {100 * share:.0f} % of the vertices")
    say(f"mesh      {options.out}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
    say(f"picture   {sheet}")


# --- view ---


@dataclass(frozen=True, kw_only=True)
class _ViewOptions:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """run folder, checkpoint folder or Hugging Face Hub id"""
    prompt: Annotated[str | None, described("PROMPT", "(default: the first trained)")] = None
    """of the first scene"""
    host: str = "127.0.0.1"
    """address to listen on; the default is reached from this machine only"""
    port: int = 8080
    """port to listen on"""
    resolution: int = 64
    """points along an edge of the grid that meshes are made on"""
    device: str = "cpu"
    """where to run: cpu, cuda, mps"""


def _view(args: list[str]) -> None:
    about = "A viewer in the browser: type a prompt, orbit the scene, morph it into another."
    options = parse_options(_ViewOptions, f"{PROGRAM} view", args, description=about)
    if options.resolution < 2:
        raise UserError(f"--resolution {options.resolution}: give 2 or more")
    if not 0 < options.port < 2**16:
        raise UserError(f"--port {options.port}: give 1 to 65535")
    if find_spec("viser") is None:
        raise UserError("view needs viser: pip install 'hyperfields[view]'")
    from hyperfields.viewer import Viewer

    model = _load_model(options.model, options.device)
    first = options.prompt if options.prompt is not None else next(iter(model.prompts), "a chair")
    viewer = Viewer(
        model, first, host=options.host, port=options.port, resolution=options.resolution
    )
    say(f"open      {viewer.url}  (stop with Ctrl-C)")
    try:
        viewer.wait()
    except KeyboardInterrupt:
        viewer.stop()


# --- study ---


@dataclass(frozen=True, kw_only=True)
class _StudyOptions:
    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="FOLDER FOLDER [...]")] = ()
    """one for each method, named as it; in each a picture or film of every prompt, named as the prompt"""
    out: Annotated[Path, arg(metavar="PAGE.html", aliases=["-o"])] = Path("study.html")
    """page for raters; the key goes beside it"""
    seed: int = 0
    """of the codes that stand for methods in the page"""


def _study(args: list[str]) -> None:
    about = (
        "A page on which raters rank what several methods made of the same prompts (4.4.4). It holds all pictures, "
        "in an order of its own for each rater, and no method's name."
    )
    options = parse_options(_StudyOptions, f"{PROGRAM} study", args, description=about)
    if options.out.suffix.lower() != ".html":
        raise UserError(f"--out {options.out}: the page's name must end in .html")
    from hyperfields.study import write_study

    key = write_study(options.folders, options.out, seed=options.seed)
    say(f"page      {options.out}: send it to raters, who send back a CSV")
    say(f"key       {key}: keep it from them")
    say(f"next      {PROGRAM} ranks {key} ANSWERS.csv ...")


@dataclass(frozen=True, kw_only=True)
class _RanksOptions:
    key: Annotated[Positional[Path], arg(metavar="PAGE.key.json")]
    """what study wrote beside the page"""
    answers: Annotated[Positional[tuple[Path, ...]], arg(metavar="ANSWERS.csv [...]")] = ()
    """what raters saved"""
    out: Annotated[Path | None, described("FILE.json", "(default: not written)")] = None
    """result"""


def _ranks(args: list[str]) -> None:
    about = "Average ranks from raters' answers (Table 4.2); 1 is best."
    options = parse_options(_RanksOptions, f"{PROGRAM} ranks", args, description=about)
    from hyperfields.study import average_ranks
    from priors_shared.devices import hardware
    from priors_shared.reports import write_result

    rows = average_ranks(options.key, options.answers)
    raters = rows[0]["all prompts"].seeds
    say(f"{raters} rater{'s' * (raters != 1)}; 1 is best; ± is half a 95 % interval")
    for row in rows:
        say(row["model"])
        for name, rank in list(row.items())[1:]:
            spread = "" if rank.spread is None else f" ± {rank.spread:.2f}"
            say(f"  {name:<32}  {rank.mean:.2f}{spread}")
    if options.out is not None:
        write_result(
            options.out,
            experiment="table-4.2",
            claim="raters rank this method before the others",
            rows=rows,
            config={"key": str(options.key)},
            seeds=[],
            data=f"answers of {raters} raters, who each saw the methods in random order",
            hardware=hardware(),
            command=shlex.join([PROGRAM, "ranks", *args]),
            thesis={},
        )
        say(f"result    {options.out}")


# --- reproduce ---


def _reproduce(args: list[str]) -> None:
    def load() -> Mapping[str, Callable[..., None]]:
        from hyperfields.experiments import EXPERIMENTS

        return EXPERIMENTS

    run_experiments(
        PROGRAM,
        args,
        (
            "figure-4.4",
            "figure-4.9",
            "att3d",
            "stages",
            "table-4.1",
            "figure-4.8",
            "table-4.3",
            "figure-4.10",
            "figure-4.11",
            "amortization",
            "figure-b.2",
            "figure-4.9-materials",
        ),
        load,
    )


# --- presets ---


def _presets(args: list[str]) -> None:
    parse_options(_NoOptions, f"{PROGRAM} presets", args, description="List the presets.")
    width = max(map(len, [*DISTILL, *GUIDANCE, *SEGMENT, *TEACH, *FINETUNE]))
    listed: tuple[tuple[tuple[str, ...], Mapping[str, Callable[[], Any]]], ...] = (
        (("train", "distill"), DISTILL),
        (("train",), {**GUIDANCE, **SEGMENT}),
        (("teach",), TEACH),
        (("finetune",), FINETUNE),
    )
    for verbs, presets in listed:
        say(", ".join(f"{PROGRAM} {verb}" for verb in verbs))
        for name, preset in presets.items():
            say(f"  {name:<{width}}  {(preset.__doc__ or '').strip()}")


@dataclass(frozen=True, kw_only=True)
class _NoOptions:
    pass


VERBS = {
    "generate": (_generate, "meshes, pictures and films from prompts"),
    "train": (_train, "train on a preset's procedural scenes: a model, a guidance, a segmentation"),
    "teach": (_teach, "optimise one NeRF of one prompt by score distillation (stage 1)"),
    "distill": (_distill, "train a model on teachers: trained NeRFs or posed renders"),
    "finetune": (_finetune, "tune a model to a prompt that is out of distribution"),
    "export": (_export, "one scene as a NeRF of its own, or as a mesh"),
    "eval": (_eval, "how well generated scenes match exact ones"),
    "segment": (_segment, "parts of an object in 3D, from a few posed views"),
    "view": (_view, "a viewer in the browser, on this machine only"),
    "study": (_study, "a page on which raters rank several methods' scenes"),
    "ranks": (_ranks, "average ranks from their answers"),
    "reproduce": (_reproduce, "run the experiments of the thesis"),
    "presets": (_presets, "list the presets"),
}
