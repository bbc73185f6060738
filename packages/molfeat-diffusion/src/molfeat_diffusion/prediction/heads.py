"""Heads on features: standardised blocks, and the thesis' MLP as scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.pipeline import Pipeline
from torch import nn

from priors_shared.errors import UserError


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


def _matrix(X: Any) -> np.ndarray:
    values = np.asarray(X, dtype=np.float64)
    if values.ndim != 2:
        raise UserError(f"features have shape {values.shape}, (molecules, features) is needed")
    return values
