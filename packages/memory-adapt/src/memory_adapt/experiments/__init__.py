"""Experiments: one file per table or figure of the thesis."""

from __future__ import annotations

from memory_adapt.experiments import delayed_labels, photos, small_claims, table_2_1
from priors_shared.experiments import Runner

EXPERIMENTS: dict[str, Runner] = {
    "table-2.1": Runner(table_2_1.Table21.of),
    "delayed-labels": Runner(delayed_labels.DelayedLabels.of),
    "photos": Runner(photos.Photos.of),
    "small-claims": Runner(small_claims.experiment),
}
