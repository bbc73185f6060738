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
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline
from torch import Tensor, nn

from molfeat_diffusion.data.splits import scaffold_of
from molfeat_diffusion.featurizers.blocks import CHEMBERTA, FeatureBlocks
from molfeat_diffusion.featurizers.rows import Failure
from molfeat_diffusion.prediction.heads import head
from molfeat_diffusion.pretrained import SHIPPED
from priors_shared.checkpoints import CONFIG, load_weights, save_weights
from priors_shared.errors import UserError

KIND = "molfeat-diffusion predictor"
MODELS = {"checkpoint": "midi", "language": "smiles"}
"""Parameters of `FeatureBlocks` that name a model, and the block that it makes."""
FOLDS = 5


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
