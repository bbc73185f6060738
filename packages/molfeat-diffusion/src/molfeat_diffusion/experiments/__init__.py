"""Experiments: one file a table or figure of the thesis."""

from __future__ import annotations

from molfeat_diffusion.experiments import small_claims, table_5_1
from priors_shared.experiments import Runner

EXPERIMENTS: dict[str, Runner] = {
    "table-5.1": Runner(table_5_1.table_5_1),
    "small-claims": Runner(small_claims.experiment),
}
