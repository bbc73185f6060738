"""Configurations: plain frozen dataclasses, no torch, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from priors_shared import launching
from priors_shared.ranges import require, require_positive

CHECKPOINT_KIND = "molfeat-diffusion midi"
"""What diffusion models are called in a checkpoint's config.json."""
SHIPPED_MIDI = "midi-cpu"
"""The diffusion model that the package brings along."""
SHIPPED_SMILES = "smiles-mlm-cpu"
"""The language model of SMILES that it brings along."""

VocabularyName = Literal["qm9", "qm9_no_h", "geom", "geom_no_h"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The denoiser; the defaults are MiDi's."""

    layers: int = 12
    """transformer layers"""
    mlp_atoms: int = 256
    """hidden width of the atoms' input and output MLP"""
    mlp_bonds: int = 64
    """of the bonds'"""
    mlp_global: int = 256
    """of the global input's"""
    mlp_positions: int = 64
    """of the positions'"""
    width_atoms: int = 256
    """features of an atom (dx)"""
    width_bonds: int = 64
    """features of a pair of atoms (de)"""
    width_global: int = 128
    """features of a molecule (dy)"""
    heads: int = 8
    """attention heads; each attends over all features of an atom"""
    feed_forward_atoms: int = 256
    """inner width of the atoms' feed-forward layers"""
    feed_forward_bonds: int = 64
    """of the bonds'"""
    feed_forward_global: int = 2048
    """of the global features'"""
    dropout: float = 0.1
    """while training"""
    self_conditioning: bool = False
    """the network also sees its last prediction (Chen et al. 2023); no: as published"""

    def __post_init__(self) -> None:
        require(self, 1, *(set(vars(self)) - {"dropout", "self_conditioning"}))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The cosine noise schedule; nu stretches it for each modality (MiDi: uniform 1, adaptive as here)."""

    timesteps: int = 500
    """T: steps from molecule to noise"""
    nu_positions: float = 2.5
    """exponent of t/T for positions: larger keeps them longer"""
    nu_atoms: float = 1.0
    """for atom types"""
    nu_charges: float = 1.0
    """for formal charges"""
    nu_bonds: float = 1.5
    """for bond types"""

    def __post_init__(self) -> None:
        require(self, 2, "timesteps")
        require_positive(self, "nu_positions", "nu_atoms", "nu_charges", "nu_bonds")


UNIFORM = NoiseConfig(nu_positions=1.0, nu_bonds=1.0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A diffusion model of molecules."""

    vocabulary: VocabularyName = "geom"
    """elements and charges: qm9, qm9_no_h, geom or geom_no_h; with no_h, hydrogens are left implicit"""
    kekulized: bool = False
    """aromatic bonds are single and double ones (valid without knowing where hydrogens are); no: as published"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """the denoiser"""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """the noise schedule"""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss' terms (lambda)."""

    weight_positions: float = 3.0
    """mean squared error of the positions, in square angstrom"""
    weight_atoms: float = 0.4
    """cross-entropy of the atom types"""
    weight_charges: float = 1.0
    """of the charges"""
    weight_bonds: float = 2.0
    """of the bond types"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training of the diffusion model (Vignac et al. 2023)."""

    data: tuple[str, ...] = ("qm9",)
    """molecules to train on: qm9 (below the data root), .sdf or .npz files with 3D structures, or
    .smi / .csv files of SMILES, for which conformers are made; more than one are joined"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """the model"""
    loss: LossConfig = field(default_factory=LossConfig)
    """weights of the loss' terms"""
    steps: int = 500_000
    """of the optimizer"""
    batch_size: int = 64
    """molecules of a step"""
    learning_rate: float = 2e-4
    """of AdamW (amsgrad)"""
    warmup_steps: int = 0
    """steps over which the learning rate rises to that"""
    decay: Literal["none", "cosine"] = "none"
    """cosine: the learning rate falls to zero at the last step; none: it stays, as published"""
    weight_decay: float = 1e-12
    """of AdamW"""
    clip_norm: float | None = None
    """largest norm of the gradient; None: any"""
    ema: float | None = None
    """decay of an average of the weights, which is then what is kept; None: no average, as published"""
    distortion: float = 0.0
    """noisy positions of a fifth of the molecules are moved by as many angstrom more in the last half of the
    steps, so that the network learns to repair them (FlowMol3); 0: none, as published"""
    max_atoms: int = 100
    """larger molecules are left out, and counted"""
    max_molecules: int | None = None
    """as many molecules, drawn by the seed; None: all"""
    validation_fraction: float = 0.05
    """fraction of the molecules that the loss is measured on"""
    validate_every: int = 2000
    """steps between two validations; the last step always ends with one"""
    checkpoint_every: int = 1000
    """steps between two checkpoints to resume from"""
    log_every: int = 100
    """steps between two lines of metrics"""
    seed: int = 0
    """of initial weights, split, order, noise and conformers"""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data must name at least one source")
        require(self, 1, "steps", "batch_size", "max_atoms")
        require(self, 1, "validate_every", "checkpoint_every", "log_every")
        require(self, 0, "warmup_steps", "weight_decay", "distortion", "seed")
        require(self, 2, "max_molecules")
        require_positive(self, "learning_rate", "clip_norm")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction}"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be in (0, 1), got {self.ema}")


EVALUATION = (
    "bace",
    "bbbp",
    "clintox",
    "cyp450",
    "davis_ligands",
    "esol_delaney",
    "freesolv",
    "hiv",
    "lipophilicity",
    "malaria",
    "moleculeace_30targets",
    "pdbbind_core_smiles",
    "pdbbind_full_smiles",
    "pdbbind_refined_smiles",
    "sider",
    "tox21",
)
"""Labelled tables to test on: pre-training must not see their molecules."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Training of a masked-language model of SMILES; the defaults are the size of ChemBERTa-77M-MLM."""

    data: tuple[str, ...] = ("chembl", "zinc")
    """SMILES to train on: chembl, zinc (below the data root), .smi or .csv files"""
    exclude: tuple[str, ...] = EVALUATION
    """tables (names below the data root, or files) whose molecules are left out, by InChIKey, and counted"""
    max_smiles: int | None = None
    """as many, drawn by the seed before that; None: all"""
    width: int = 384
    """features of a token, and so of a molecule"""
    layers: int = 3
    """transformer layers"""
    heads: int = 12
    """attention heads"""
    feed_forward: int = 464
    """inner width of the feed-forward layers"""
    dropout: float = 0.1
    """while training"""
    max_length: int = 128
    """tokens; longer SMILES are cut"""
    mask_fraction: float = 0.15
    """fraction of the tokens to predict; of these 80 % are hidden, 10 % replaced, 10 % left"""
    steps: int = 100_000
    """of the optimizer"""
    batch_size: int = 256
    """SMILES of a step"""
    learning_rate: float = 5e-4
    """highest, of AdamW; it rises over the first 5 % of the steps and falls linearly to 0"""
    weight_decay: float = 0.01
    """of AdamW"""
    clip_norm: float = 1.0
    """largest norm of the gradient"""
    validation_fraction: float = 0.02
    """fraction of the SMILES that the loss is measured on"""
    validate_every: int = 1000
    """steps between two validations; the last step always ends with one"""
    checkpoint_every: int = 500
    """steps between two checkpoints to resume from"""
    log_every: int = 50
    """steps between two lines of metrics"""
    seed: int = 0
    """of initial weights, split, order and masks"""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data must name at least one source")
        require(self, 1, "width", "layers", "heads", "feed_forward", "steps", "batch_size")
        require(self, 1, "validate_every", "checkpoint_every", "log_every")
        require(self, 0, "weight_decay", "seed")
        require(self, 0, "dropout", most=1)
        require(self, 2, "max_smiles")
        require(self, 8, "max_length")
        require_positive(self, "learning_rate", "clip_norm")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        for name in ("mask_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(launching.LaunchConfig):
    """Where and how it runs; a resumed run may change all of it."""

    data_root: str | None = None
    """folder with the datasets (else the environment variable PRIORS_DATA)"""
    jobs: int = 1
    """processes that make conformers"""


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """How a molecule without 3D structure gets one (RDKit)."""

    attempts: int = 10
    """embeddings by ETKDGv3 before random coordinates are tried"""
    timeout: int = 30
    """seconds for one embedding"""
    optimize: bool = True
    """relax by MMFF94, or UFF where MMFF94 lacks parameters"""
    fragment: Literal["largest", "all"] = "largest"
    """of a salt or mixture: its largest fragment (noted in the report), or all of it"""

    def __post_init__(self) -> None:
        require(self, 1, "attempts", "timeout")
