from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memory_adapt.config import NTMConfig
from memory_adapt.models.ntm import NTM, access


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values).unsqueeze(0)  # one stream


def test_one_head_by_hand() -> None:
    """Three rows of two numbers; row 1 is least used; half of the write goes to the last read."""
    memory, usage, read = access(
        memory=rows([1.0, 0.0], [5.0, 5.0], [0.0, 1.0]),
        usage=torch.tensor([[0.9, 0.2, 0.4]]),
        read_weights=rows([1.0, 0.0, 0.0]),
        key=rows([2.0, 0.0]),
        row=rows([0.0, 4.0]),
        strength=torch.full((1, 1, 1), 3.0),
        gate=torch.full((1, 1, 1), 0.5),
        usage_decay=0.95,
    )
    # Row 1 is cleared, then takes half of (0, 4); row 0 was read last and takes the other half.
    assert memory.squeeze(0).tolist() == [[1, 2], [0, 2], [0, 1]]
    # cos((2, 0), .) = 1 / sqrt 5, 0, 0, read after the write
    e = math.exp(3 / math.sqrt(5))
    expected = [e / (e + 2), 1 / (e + 2), 1 / (e + 2)]
    assert read.flatten().tolist() == pytest.approx(expected)
    written = [0.5, 0.5, 0.0]
    decayed = [0.95 * 0.9, 0.95 * 0.2, 0.95 * 0.4]
    total = [sum(parts) for parts in zip(decayed, expected, written, strict=True)]
    assert usage.flatten().tolist() == pytest.approx(total)


def test_each_head_takes_its_own_least_used_row_and_ties_go_in_order() -> None:
    memory, _, _ = access(
        memory=rows([9.0], [9.0], [9.0], [9.0]),
        usage=torch.tensor([[0.5, 0.1, 0.7, 0.1]]),
        read_weights=torch.zeros(1, 2, 4),
        key=rows([1.0], [1.0]),
        row=rows([2.0], [3.0]),
        strength=torch.ones(1, 2, 1),
        gate=torch.zeros(1, 2, 1),
        usage_decay=0.95,
    )
    assert memory.flatten().tolist() == [9, 2, 9, 3]


def test_an_open_gate_writes_only_where_it_read_but_clears_all_the_same() -> None:
    memory, _, _ = access(
        memory=rows([1.0], [7.0]),
        usage=torch.tensor([[1.0, 0.0]]),
        read_weights=rows([0.25, 0.0]),
        key=rows([1.0]),
        row=rows([4.0]),
        strength=torch.ones(1, 1, 1),
        gate=torch.ones(1, 1, 1),
        usage_decay=0.95,
    )
    assert memory.flatten().tolist() == [2, 0]


def test_rows_fill_before_any_is_overwritten() -> None:
    """With gates towards the least-used row, n steps fill n rows; the next takes the oldest."""
    size, slots = 3, 4
    memory, usage = torch.full((1, slots, size), 1e-6), torch.zeros(1, slots)
    read = torch.zeros(1, 1, slots)
    for t in range(slots + 1):
        # A key of its own for each step and high strength: no row but the new one is read.
        row = torch.tensor([math.cos(t), math.sin(t), t]).reshape(1, 1, size)
        memory, usage, read = access(
            memory, usage, read, key=row, row=row,
            strength=torch.full((1, 1, 1), 1e4), gate=torch.zeros(1, 1, 1), usage_decay=0.95,
        )  # fmt: skip
    assert memory[0, :, 2].tolist() == [4, 1, 2, 3]


def test_a_cleared_row_gives_finite_gradients() -> None:
    key = torch.randn(1, 1, 2, requires_grad=True)
    row = torch.zeros(1, 1, 2, requires_grad=True)  # the cleared row stays exactly zero
    memory, _, read = access(
        memory=torch.zeros(1, 3, 2), usage=torch.zeros(1, 3), read_weights=torch.zeros(1, 1, 3),
        key=key, row=row, strength=torch.ones(1, 1, 1), gate=torch.zeros(1, 1, 1),
        usage_decay=0.95,
    )  # fmt: skip
    (read @ memory).sum().backward()
    assert key.grad is not None
    assert key.grad.isfinite().all()
    assert row.grad is not None
    assert row.grad.any()


def test_gradients_reach_what_was_written_long_ago_but_not_the_usage() -> None:
    first = torch.tensor([[[0.6, 0.8]]], requires_grad=True)
    memory, usage, read = torch.zeros(1, 6, 2), torch.zeros(1, 6), torch.zeros(1, 1, 6)
    for t in range(5):
        memory, usage, read = access(
            memory, usage, read, key=torch.ones(1, 1, 2),
            row=first if t == 0 else torch.full((1, 1, 2), -1.0),
            strength=torch.ones(1, 1, 1), gate=torch.zeros(1, 1, 1), usage_decay=0.95,
        )  # fmt: skip
    (grad,) = torch.autograd.grad((read @ memory).sum(), first)
    assert grad.any()
    assert not usage.requires_grad


def test_more_heads_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads \(4\) must be at most slots \(3\)"):
        NTM(NTMConfig(slots=3, heads=4))


def test_sizes_of_the_thesis() -> None:
    """Appendix A.1.4: controller of 400, memory 120 x 40."""
    state = NTM(NTMConfig()).initial_state(2)
    assert state["hidden"].shape == (2, 400)
    assert state["memory"].shape == (2, 120, 40)
    assert state["read_weights"].shape == (2, 4, 120)
