"""Configurations. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Suppress

from hyperfields.records import Config
from priors_shared.launching import LaunchConfig as LaunchConfig
from priors_shared.ranges import require

SHIPPED = Path(__file__).parent / "weights"
"""Folder of the weights that the package brings along."""
MODEL_KIND = "hyperfields"
"""Kind of a hypernetwork's checkpoint."""
SHIPPED_MODEL = "procedural-cpu"
"""The hypernetwork that the package brings along."""
SHIPPED_GUIDANCE = "procedural-unet"
"""The diffusion model of procedural scenes that the package brings along."""
SHIPPED_SEGMENTATION = "segmentation-cpu"
"""The network from views to labelled fields that it brings along."""
SEGMENT_KIND = "hyperfields segmentation"
"""Kind of a hypernetwork's checkpoint that is conditioned on views."""
FIELD_KIND = "radiance-field"
"""Kind of a single scene's checkpoint."""


@dataclass(frozen=True, kw_only=True)
class FieldConfig(Config):
    """A NeRF: position encoding and MLP (4.3.3, B.1)."""

    layers: int = 6
    """layers of the MLP"""
    width: int = 64
    """units of its hidden layers"""
    features: Annotated[int, Suppress] = 0
    """channels of a feature vector at each point, beside density and colour"""
    levels: int = 16
    """grids of the hash encoding"""
    level_features: int = 2
    """features of each of its vertices"""
    log2_rows: int = 19
    """most rows of a level's table: 2 to this power"""
    coarsest: int = 16
    """cells along an edge of the first grid"""
    finest: int = 2048
    """cells along an edge of the last grid"""
    frequencies: int = 6
    """octaves of the sinusoidal encoding"""
    blob_height: float = 2.0
    """log-density that the centre begins with"""
    blob_radius: float = 0.9
    """distance from the centre at which the initial density is 1; wide, for thin parts"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 2, "layers", most=256)
        require(self, 2, "finest", most=2**16)
        require(self, 1, "width", "level_features", most=2**14)
        require(self, 1, "levels", "coarsest", most=2**10)
        require(self, 1, "log2_rows", most=28)
        require(self, 0, "features", "frequencies", most=2**10)
        if self.finest < self.coarsest:
            raise ValueError(
                f"finest ({self.finest}) must not be less than coarsest ({self.coarsest})"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The hypernetwork (4.3.1, B.1)."""

    text: str = "bert"
    """frozen text encoder: minilm (offline), bert, t5, clip, or a Hugging Face id or folder"""
    blocks: int = 6
    """self-attention blocks of the transformer"""
    heads: int = 12
    """attention heads"""
    head_dim: int = 16
    """units of a head"""
    hidden: int = 64
    """hidden units of the MLPs that write weights"""
    conditioning: Literal["dynamic", "static", "grid"] = "dynamic"
    """dynamic: weights depend on the activations before them (Eq. 4.5); static: on the prompt alone; grid: one MLP
    for all scenes, and hash grids written from the prompt (the baseline ATT3D)"""
    stop_gradient: bool = True
    """no gradient through the activations that a layer's weights depend on (Fig. 4.3)"""
    weights: Literal["direct", "modulated"] = "direct"
    """direct: the MLP's output is the weights; modulated: it multiplies learned weights, normalised"""
    field: FieldConfig = field(default_factory=FieldConfig)
    """the NeRF whose weights are written"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "blocks", "heads", most=2**10)
        require(self, 1, "head_dim", "hidden", most=2**14)
        if self.conditioning != "dynamic" and not self.stop_gradient:
            raise ValueError("stop_gradient is a matter of dynamic conditioning alone")
        if self.conditioning == "grid" and self.weights != "direct":
            raise ValueError("weights are not written by grid conditioning: leave them direct")


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """Training of a hypernetwork on rays of known scenes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """the hypernetwork"""
    views: int = 64
    """cameras of a scene"""
    image_size: int = 64
    """pixels along each side of its renders"""
    prompts_per_step: int = 3
    """scenes per step: n of Algorithm 3"""
    rays: int = 1024
    """rays of each scene's image per step"""
    samples: int = 64
    """points along a ray"""
    steps: int = 20000
    """steps of the optimiser"""
    learning_rate: float = 1e-4
    """learning rate of Adam, at its highest"""
    grid_learning_rate: float = 1e-3
    """learning rate of Adam for the hash grid"""
    warmup_steps: int = 100
    """steps over which the learning rates rise from 0"""
    object_fraction: float = 0.0
    """fraction of the rays drawn from the pixels of the object and next to it; the others are drawn from all"""
    min_lr_ratio: float = 0.1
    """fraction of the learning rates left at the end; they fall along a cosine"""
    checkpoint_every: int = 500
    """steps between two checkpoints to resume from"""
    log_every: int = 50
    """steps between two lines of metrics"""
    seed: int = 0
    """seed of initial weights, scenes, cameras, rays and samples"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "views", "prompts_per_step", "rays", "samples", "steps")
        require(self, 1, "checkpoint_every", "log_every")
        require(self, 4, "image_size", most=2**13)
        require(self, 0, "warmup_steps", "seed")
        require(self, 0, "object_fraction", "min_lr_ratio", most=1)
        if self.model.field.features:
            raise ValueError("features: what a field has beside colours, segmentation alone sets")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FitConfig):
    """Stage 2: distillation of teachers into the hypernetwork (4.3.2, Algorithm 3)."""

    prompts: Annotated[tuple[str, ...], Suppress] = ()
    """procedural scenes to learn where no teachers are given"""
    held_out: Annotated[tuple[str, ...], Suppress] = ()
    """prompts to evaluate zero-shot, never trained on"""

    def __post_init__(self) -> None:
        super().__post_init__()
        both = sorted(set(self.prompts) & set(self.held_out))
        if both:
            raise ValueError(f"prompts both trained and held out: {', '.join(both)}")


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(FitConfig):
    """Feature fields from a few views (4.4.8); the field's features are the parts' labels."""

    scenes: int = 240
    """procedural scenes of random proportions to learn"""
    input_views: int = 4
    """views that condition the hypernetwork"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "scenes", "input_views")
        if self.input_views >= self.views:
            raise ValueError(
                f"input_views must be below views, got {self.input_views} of {self.views}"
            )
        if self.image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Config):
    """Optimisation of one prompt's scene by score distillation (4.2.2)."""

    prompt: Annotated[str, Suppress] = "a red chair"
    """what to show"""
    guidance: str = "empirical"
    """empirical: the exact denoiser of a procedural scene's renders; procedural-unet, or a run folder of train
    procedural_unet: a small diffusion model of such renders; else a diffusers pipeline: stable-diffusion, a
    Hugging Face id or a folder"""
    method: Literal["sds", "vsd"] = "sds"
    """sds: Score Distillation Sampling (Eq. 4.1); vsd: Variational Score Distillation, with a LoRA"""
    guidance_text: str | None = None
    """text encoder, where the guidance is a run folder trained with one of your own: a Hugging Face id or a folder"""
    scale: float = 100.0
    """strength of classifier-free guidance, of a diffusion model alone; for vsd 7.5 is usual"""
    view_words: bool = True
    """add "front view", "side view", ... to the prompt"""
    image_size: int = 64
    """pixels along each side of the renders that are guided"""
    samples: int = 64
    """points along a ray"""
    batch_size: int = 1
    """renders per step"""
    views: int = 64
    """renders that the empirical guidance holds; it alone"""
    steps: int = 10000
    """steps of the optimiser"""
    learning_rate: float = 1e-4
    """learning rate of Adam; the LoRA of vsd has ten times as much"""
    grid_learning_rate: float = 1e-2
    """learning rate of Adam for the hash grid"""
    checkpoint_every: int = 500
    """steps between two checkpoints to resume from"""
    log_every: int = 50
    """steps between two lines of metrics"""
    seed: int = 0
    """seed of initial weights, cameras, steps and noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "samples", "batch_size", "views", "steps")
        require(self, 1, "checkpoint_every", "log_every")
        require(self, 4, "image_size", most=2**13)
        require(self, 0, "seed")
        if self.guidance == "empirical":
            if self.method == "vsd":
                raise ValueError(
                    "method vsd needs a diffusion model: choose another guidance than empirical"
                )
            self._no_effect("scale", "guidance_text")
        else:
            self._no_effect("views")

    def _no_effect(self, *names: str) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in names and value != spec.default:
                leave = "out" if spec.default is None else f"at {spec.default}"
                raise ValueError(
                    f"{spec.name} {value} has no effect with guidance {self.guidance}: leave it {leave}"
                )


@dataclass(frozen=True, kw_only=True)
class TeachConfig(ScoreConfig):
    """Stage 1: one NeRF of one prompt."""

    field: FieldConfig = field(default_factory=FieldConfig)
    """the NeRF"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.field.features:
            raise ValueError("features: what a field has beside colours, segmentation alone sets")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ScoreConfig):
    """Fine-tuning of a whole model to one prompt (4.4.3)."""

    steps: int = 2000
    """steps of the optimiser"""
    grid_learning_rate: float = 1e-3
    """learning rate of Adam for the hash grid"""


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Config):
    """The denoiser of procedural scenes."""

    text: str = "minilm"
    """frozen text encoder: see the hypernetwork's"""
    image_size: int = 32
    """pixels along each side"""
    widths: tuple[int, int] = (48, 96)
    """channels at the two resolutions, multiples of 16"""
    layers: int = 1
    """residual blocks at each resolution, on the way down"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "layers", most=64)
        if self.image_size < 8 or self.image_size % 4:
            raise ValueError(
                f"image_size must be a multiple of 4 and at least 8, got {self.image_size}"
            )
        if len(self.widths) != 2 or any(width < 16 or width % 16 for width in self.widths):
            raise ValueError(f"widths must be two multiples of 16, got {self.widths}")


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig(Config):
    """Training of a diffusion model of procedural scenes, for score distillation."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    """the denoiser"""
    prompts: Annotated[tuple[str, ...], Suppress] = ()
    """procedural scenes to learn"""
    views: int = 96
    """renders of each"""
    batch_size: int = 32
    """renders per step"""
    steps: int = 2000
    """steps of the optimiser"""
    learning_rate: float = 1e-3
    """learning rate of AdamW, after 100 steps of warm-up; it falls linearly to 0"""
    ema: float = 0.995
    """decay of the moving average of the weights, which is what is written"""
    checkpoint_every: int = 100
    """steps between two checkpoints to resume from"""
    log_every: int = 50
    """steps between two lines of metrics"""
    seed: int = 0
    """seed of initial weights, cameras, renders, steps and noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "views", "batch_size", "steps", "checkpoint_every", "log_every")
        require(self, 0, "seed")
        if not 0 < self.ema < 1:
            raise ValueError(f"ema must be in (0, 1), got {self.ema}")
