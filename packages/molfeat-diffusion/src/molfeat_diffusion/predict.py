"""Prediction from few labels (thesis 5.3.4): blocks of features side by side, standardised, and an MLP.

Everything that is learned, standardisation included, is learned from the labelled molecules given to `fit`,
and within a fold from that fold's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline
from torch import Tensor, nn

from molfeat_diffusion.checkpoint import SHIPPED
from molfeat_diffusion.config import SHIPPED_MIDI, SHIPPED_SMILES
from molfeat_diffusion.descriptors import KINDS, DescriptorFeaturizer
from molfeat_diffusion.features import Failure, MiDiFeaturizer, molecule_sources
from molfeat_diffusion.language import SmilesFeaturizer
from molfeat_diffusion.splits import scaffold_of
from priors_shared.checkpoints import CONFIG, load_weights, save_weights
from priors_shared.errors import UserError

KIND = "molfeat-diffusion predictor"
CHEMBERTA = "DeepChem/ChemBERTa-77M-MLM"
BLOCKS = ("midi", "smiles", "chemberta", *KINDS)
MODELS = {"checkpoint": "midi", "language": "smiles"}
"""Parameters of `FeatureBlocks` that name a model, and the block that it makes."""
FOLDS = 5


class BlockStandardizer(TransformerMixin, BaseEstimator):
    """Each feature to mean 0 and variance 1, each block to the same total variance.

    So that a block of 2048 features does not outweigh one of 64. Features that are constant in `fit` become 0.
    Rows with NaN are left out of `fit`, and stay NaN.

    Args:
        widths: number of features of each block, in order; None: one block.
    """

    def __init__(self, widths: Sequence[int] | None = None) -> None:
        self.widths = widths

    def fit(self, X: Any, y: Any = None) -> BlockStandardizer:
        """Learn means and scales from the rows without NaN."""
        values = _matrix(X)
        widths = [values.shape[1]] if self.widths is None else list(self.widths)
        if sum(widths) != values.shape[1]:
            raise UserError(f"blocks of {widths} features, but there are {values.shape[1]} in all")
        rows = values[np.isfinite(values).all(1)]
        if not len(rows):
            raise UserError("no row has all its features: nothing to standardise")
        self.mean_ = rows.mean(0)
        deviation = rows.std(0)
        varies = deviation > 1e-6 * np.maximum(1.0, np.abs(self.mean_))
        scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
        for block in np.split(np.arange(values.shape[1]), np.cumsum(widths)[:-1]):
            # All blocks together have as many units of variance as an average block has features.
            active = max(1, int(varies[block].sum()))
            scale[block] *= np.sqrt(values.shape[1] / len(widths) / active)
        self.scale_ = scale
        self.n_features_in_ = values.shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(N, d) float32."""
        values = _matrix(X)
        return ((values - self.mean_) * self.scale_).astype(np.float32)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names that came in, or x0, x1, ..."""
        if input_features is None:
            input_features = [f"x{i}" for i in range(self.n_features_in_)]
        return np.asarray(input_features, dtype=object)


class _MLP(BaseEstimator):
    """Two hidden layers (thesis 5.3.4), AdamW; rows with NaN are not learned from, and get NaN."""

    def __init__(
        self,
        hidden: int = 128,
        *,
        dropout: float = 0.2,
        epochs: int = 60,
        batch: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed

    def _network(self, width: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Linear(width, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)),
            *(nn.Linear(self.hidden, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)),
            nn.Linear(self.hidden, 1),
        )

    def _learn(self, X: Any, target: np.ndarray, loss_of: Any) -> None:
        values = _matrix(X)
        known = np.isfinite(values).all(1) & np.isfinite(target)
        if known.sum() < 2:
            raise UserError(
                f"{int(known.sum())} rows with all features and a target: too few to fit"
            )
        inputs = torch.from_numpy(values[known]).float()
        wanted = torch.from_numpy(target[known]).float()
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(self.seed)
            self.network_ = self._network(inputs.shape[1])
            optimizer = torch.optim.AdamW(
                self.network_.parameters(), self.learning_rate, weight_decay=self.weight_decay
            )
            self.network_.train()
            for _ in range(self.epochs):
                for rows in torch.randperm(len(inputs), generator=generator).split(self.batch):
                    loss = loss_of(self.network_(inputs[rows]).squeeze(1), wanted[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        self.network_.eval()
        self.n_features_in_ = inputs.shape[1]

    def _output(self, X: Any) -> np.ndarray:
        """(N,) float64; NaN where a feature is."""
        values = _matrix(X)
        with torch.inference_mode():
            found = self.network_(torch.from_numpy(values).float()).squeeze(1).double().numpy()
        return np.where(np.isfinite(values).all(1), found, np.nan)


class MLPClassifier(ClassifierMixin, _MLP):
    """The head for two classes: cross-entropy."""

    def fit(self, X: Any, y: Any) -> MLPClassifier:
        """Learn from labels of two classes."""
        labels = np.asarray(y)
        self.classes_ = np.unique(labels)
        if len(self.classes_) != 2:
            raise UserError(f"the target has {len(self.classes_)} classes, a classifier needs 2")
        loss = nn.functional.binary_cross_entropy_with_logits
        self._learn(X, (labels == self.classes_[1]).astype(float), loss)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """(N,) logits of the second class."""
        return self._output(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, 2) probabilities."""
        second = 1 / (1 + np.exp(-self._output(X)))
        return np.stack([1 - second, second], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class; NaN where a feature is, or None where classes are no numbers."""
        logits = self._output(X)
        found = self.classes_[(logits > 0).astype(int)]
        missing = np.isnan(logits)
        if not missing.any():
            return found
        numbers = np.issubdtype(found.dtype, np.number)
        found = found.astype(float if numbers else object)
        found[missing] = np.nan if numbers else None
        return found


class MLPRegressor(RegressorMixin, _MLP):
    """The head for numbers: mean squared error of the standardised target."""

    def fit(self, X: Any, y: Any) -> MLPRegressor:
        """Learn from numbers; rows whose target is NaN are left out."""
        target = np.asarray(y, dtype=float)
        self.mean_, self.scale_ = float(np.nanmean(target)), float(np.nanstd(target)) or 1.0
        self._learn(X, (target - self.mean_) / self.scale_, nn.functional.mse_loss)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) numbers; NaN where a feature is."""
        return self._output(X) * self.scale_ + self.mean_


def head(task: str, widths: Sequence[int] | None, **options: Any) -> Pipeline:
    """Standardisation of blocks, and the MLP: one estimator, so that folds never share what is learned."""
    mlp = MLPClassifier(**options) if task == "classification" else MLPRegressor(**options)
    return Pipeline([("standardize", BlockStandardizer(widths)), ("mlp", mlp)])


class FeatureBlocks(TransformerMixin, BaseEstimator):
    """Features of several kinds side by side.

    Args:
        features: names joined by +, of midi, smiles, chemberta, ecfp4, rdkit2d, usrcat.
        checkpoint: of the diffusion model, for midi.
        layer, timestep: of it.
        language: language model, for smiles.
        seed: of noise and conformers.
        n_jobs: processes that make conformers, for midi.
        cache: file that keeps midi's features.
    """

    def __init__(
        self,
        features: str = "midi+smiles",
        *,
        checkpoint: str = SHIPPED_MIDI,
        layer: int | None = None,
        timestep: int = 50,
        language: str = SHIPPED_SMILES,
        seed: int = 0,
        n_jobs: int = 1,
        cache: str | None = None,
    ) -> None:
        self.features = features
        self.checkpoint = checkpoint
        self.layer = layer
        self.timestep = timestep
        self.language = language
        self.seed = seed
        self.n_jobs = n_jobs
        self.cache = cache

    def fit(self, X: Any = None, y: Any = None) -> FeatureBlocks:
        """Nothing is learned: load the models."""
        self.blocks()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It always is."""
        return True

    def blocks(self) -> dict[str, Any]:
        """The featurizers, by name."""
        if getattr(self, "_built_for", None) != self.get_params():
            self._blocks = {name: self._block(name) for name in self.features.split("+")}
            self._built_for = self.get_params()
        return self._blocks

    def _block(self, name: str) -> Any:
        if name == "midi":
            return MiDiFeaturizer(
                self.checkpoint,
                layer=self.layer,
                timestep=self.timestep,
                seed=self.seed,
                errors="nan",
                n_jobs=self.n_jobs,
                cache=self.cache,
            ).fit()
        if name in ("smiles", "chemberta"):
            model = self.language if name == "smiles" else CHEMBERTA
            return SmilesFeaturizer(model, errors="nan").fit()
        if name in KINDS:
            return DescriptorFeaturizer(name, errors="nan", seed=self.seed)  # type: ignore[arg-type]
        raise UserError(f"features {name!r}: choose of {', '.join(BLOCKS)}, joined by +")

    @property
    def widths(self) -> list[int]:
        """Number of features of each block."""
        return [len(block.get_feature_names_out()) for block in self.blocks().values()]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The blocks' names, one after the other."""
        return np.concatenate([b.get_feature_names_out() for b in self.blocks().values()])

    def transform(
        self,
        X: Any,
        *,
        ids: Sequence[Any] | None = None,
        first_row: int = 0,
        return_failures: bool = False,
    ) -> Any:
        """(N, d) float32; a row that fails in one block is NaN in all, and in the list of `Failure`."""
        sources = list(molecule_sources(X))
        parts: list[np.ndarray] = []
        report: dict[tuple[int, str], Failure] = {}
        for block in self.blocks().values():
            values, failures = block.transform(
                sources, ids=ids, first_row=first_row, return_failures=True
            )
            parts.append(values)
            report |= {(f.index, f.stage): f for f in reversed(failures)}
        result = np.concatenate(parts, axis=1)
        result[~np.isfinite(result).all(1)] = np.nan
        ordered = sorted(report.values(), key=lambda f: (f.index, f.failed))
        return (result, ordered) if return_failures else result


class Predictor:
    """Features, head and calibration, fitted; on disk a folder of safetensors and JSON."""

    def __init__(
        self,
        blocks: FeatureBlocks,
        task: str,
        model: Pipeline,
        calibration: tuple[float, float],
        record: dict[str, Any],
    ) -> None:
        self.blocks = blocks
        self.task = task
        self.model = model
        self.calibration = calibration
        """(slope, offset) of the logits, so that scores are probabilities"""
        self.record = record
        """what it was fitted on, and its metrics on held-out scaffolds"""

    @classmethod
    def fit(
        cls,
        blocks: FeatureBlocks,
        molecules: Sequence[Any],
        targets: Sequence[Any] | np.ndarray,
        *,
        task: Literal["classification", "regression"],
        ids: Sequence[Any] | None = None,
        **options: Any,
    ) -> tuple[Predictor, list[Failure]]:
        """Fit on all rows that have features and a target; the failure table names the others.

        Out-of-fold scores of `FOLDS` groups of scaffolds give the calibration (Platt) and the record's metrics.

        Raises:
            UserError: too few rows; not two classes.
        """
        names = [str(i) for i in (range(len(molecules)) if ids is None else ids)]
        X, report = blocks.transform(molecules, ids=names, return_failures=True)
        values = np.asarray(targets, dtype=float)
        report += [
            Failure(int(i), names[i], "target", "no number in the target's column")
            for i in np.flatnonzero(~np.isfinite(values))
        ]
        rows = np.flatnonzero(np.isfinite(X).all(1) & np.isfinite(values))
        if len(rows) < 2 * FOLDS:
            raise UserError(f"{len(rows)} rows with features and a target: {2 * FOLDS} are needed")
        X, y = X[rows], values[rows]
        if task == "classification" and len(np.unique(y)) != 2:
            raise UserError(f"the target has {len(np.unique(y))} classes, a classifier needs 2")
        groups = [scaffold_of(molecules[int(i)]) for i in rows]
        model = head(task, blocks.widths, **options)
        outside = out_of_fold(model, X, y, groups)
        calibration = platt(outside, y == y.max()) if task == "classification" else (1.0, 0.0)
        metrics = _metrics(task, outside, y, groups)
        record = {"rows": len(rows), "scaffolds": len(set(groups)), "metrics": metrics}
        if task == "classification":
            record["classes"] = np.unique(y).tolist()
        report.sort(key=lambda f: (f.index, f.failed))
        return cls(blocks, task, model.fit(X, y), calibration, record), report

    def scores(self, X: np.ndarray) -> np.ndarray:
        """(N,) probabilities of the larger class, or predicted numbers, of features; NaN where they are."""
        if self.task == "regression":
            return self.model.predict(X)
        slope, offset = self.calibration
        return 1 / (1 + np.exp(-(slope * self.model.decision_function(X) + offset)))

    def save(self, folder: Path) -> None:
        """Write the folder: no path of this machine; models that are not shipped are known by their digest."""
        scaler, mlp = self.model["standardize"], self.model["mlp"]
        module = nn.Module()
        module.network = mlp.network_
        for name in ("mean_", "scale_"):
            module.register_buffer(name, torch.from_numpy(getattr(scaler, name)))
        target = [mlp.mean_, mlp.scale_] if self.task == "regression" else None
        features = self.blocks.get_params()
        for local in ("n_jobs", "cache"):
            del features[local]
        for name in MODELS:
            features[name] = features[name] if _is_known(features[name]) else None
        config = {
            "features": features,
            "task": self.task,
            "widths": self.blocks.widths,
            "head": mlp.get_params(),
            "target": target,
            "calibration": list(self.calibration),
            "digests": self._digests(),
        }
        save_weights(folder, module, kind=KIND, config=config, extra={"fitted": self.record})

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        checkpoint: str | None = None,
        language: str | None = None,
        n_jobs: int = 1,
        cache: str | None = None,
    ) -> Predictor:
        """What `save` wrote.

        Args:
            folder: of the predictor.
            checkpoint, language: the models that make its features, where they are neither shipped nor the
                published ChemBERTa: what a folder names is never loaded else.
            n_jobs, cache: see `FeatureBlocks`.

        Raises:
            UserError: nothing there, or a model that makes features is not the one that it was fitted with.
        """
        record, weights = load_weights(folder, kind=KIND)
        config = record["config"]
        features = {**config["features"], "n_jobs": n_jobs, "cache": cache}
        given = {"checkpoint": checkpoint, "language": language}
        for name, block in MODELS.items():
            stored = features[name] if _is_known(features[name]) else None
            features[name] = given[name] or stored
            if features[name] is None and block in features["features"].split("+"):
                digest = str(config["digests"].get(block))[:12]
                raise UserError(
                    f"{name}: {folder} was fitted on {block} features of a model that is not shipped "
                    f"(digest {digest}): name it"
                )
        model = head(config["task"], config["widths"], **config["head"])
        scaler, mlp = model["standardize"], model["mlp"]
        scaler.mean_, scaler.scale_ = weights["mean_"].numpy(), weights["scale_"].numpy()
        scaler.n_features_in_ = mlp.n_features_in_ = len(scaler.mean_)
        mlp.network_ = mlp._network(len(scaler.mean_)).eval()
        mlp.network_.load_state_dict(_below("network.", weights))
        if config["task"] == "regression":
            mlp.mean_, mlp.scale_ = config["target"]
        else:
            mlp.classes_ = np.array(record["fitted"]["classes"])
        blocks = FeatureBlocks(**features)
        slope, offset = config["calibration"]
        found = cls(blocks, config["task"], model, (slope, offset), record["fitted"])
        if found._digests() != config["digests"]:
            raise UserError(
                f"{folder}: it was fitted on features of other weights than those there are now of "
                f"{blocks.features}: fit it again"
            )
        return found

    def _digests(self) -> dict[str, str]:
        """Of the models that make features: other weights would make other scores, silently."""
        blocks = self.blocks.blocks().items()
        return {n: b.checkpoint_digest for n, b in blocks if hasattr(b, "checkpoint_digest")}


def out_of_fold(model: Any, X: np.ndarray, y: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """(N,) logits or numbers of each row, by a model fitted without its scaffold.

    Raises:
        UserError: too few scaffolds, or a fold whose rest has one class alone.
    """
    count = min(FOLDS, len(set(groups)))
    if count < 2:
        raise UserError("all molecules have the same scaffold: no fold to hold out")
    found = np.full(len(y), np.nan)
    for train, test in GroupKFold(count).split(X, y, groups):
        fitted = clone(model).fit(X[train], y[train])
        logits = hasattr(fitted, "decision_function")
        found[test] = fitted.decision_function(X[test]) if logits else fitted.predict(X[test])
    return found


def platt(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope and offset that make probabilities of logits (Platt 1999); never a falling slope.

    Targets are Platt's (n + 1) / (n + 2) and 1 / (n + 2), not 1 and 0: classes that happen to be separable
    would give certainties.
    """
    right = np.asarray(positive, dtype=bool)
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    # Each row as both classes, weighed by its target: scikit-learn takes no soft labels.
    twice = np.concatenate([logits, logits])[:, None]
    labels = np.repeat([1, 0], len(logits))
    fitted = LogisticRegression(C=1e3).fit(twice, labels, np.concatenate([target, 1 - target]))
    return max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])


def calibrated(logits: np.ndarray, positive: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """(N,) probabilities of each row, by Platt's scaling fitted without its scaffold: what to measure it by."""
    found = np.empty(len(logits))
    for train, test in GroupKFold(min(FOLDS, len(set(groups)))).split(logits, positive, groups):
        slope, offset = platt(logits[train], positive[train])
        found[test] = 1 / (1 + np.exp(-(slope * logits[test] + offset)))
    return found


def _metrics(
    task: str, outside: np.ndarray, y: np.ndarray, groups: Sequence[str]
) -> dict[str, float]:
    if task == "regression":
        error = float(np.sqrt(np.mean((outside - y) ** 2)))
        return {"rmse": error, "r2": float(r2_score(y, outside))}
    positive = y == y.max()
    return {
        "auroc": float(roc_auc_score(positive, outside)),
        "auprc": float(average_precision_score(positive, outside)),
        "brier": float(brier_score_loss(positive, calibrated(outside, positive, groups))),
        "positives": float(positive.mean()),
    }


def _is_known(name: object) -> bool:
    """Whether a model's name, read from a file, may be loaded: shipped weights, or the published ChemBERTa."""
    if not isinstance(name, str):
        return False
    return name == CHEMBERTA or (Path(name).name == name and (SHIPPED / name / CONFIG).is_file())


def _matrix(X: Any) -> np.ndarray:
    values = np.asarray(X, dtype=np.float64)
    if values.ndim != 2:
        raise UserError(f"features have shape {values.shape}, (molecules, features) is needed")
    return values


def _below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
