"""Layers that torch lacks."""

from __future__ import annotations

import pytest
import torch

from fastgan.nn import AlwaysDropout, ReplayBuffer


def test_dropout_in_both_modes():
    layer, x = AlwaysDropout(0.25), torch.ones(4000)
    for training in (True, False):
        y = layer.train(training)(x)
        assert torch.equal(y, torch.where(y > 0, torch.tensor(1 / 0.75), 0.0))
        assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)  # 4 deviations


def test_replay_keeps_the_latest():
    buffer = ReplayBuffer(4, 1)
    first, second, third = (torch.arange(6.0).view(6, 1) + 10 * i for i in range(3))
    assert torch.equal(buffer(first), first), "nothing to remember yet"
    assert buffer.images.flatten().tolist() == [0.0, 1.0, 2.0, 0.0] and buffer.count == 3
    mixed = buffer(second)
    assert set(mixed[:3].flatten().tolist()) <= {0.0, 1.0, 2.0} and torch.equal(mixed[3:], second[3:])
    assert buffer.images.flatten().tolist() == [11.0, 12.0, 2.0, 10.0] and buffer.count == 6
    drawn = torch.cat([buffer(third)[:3] for _ in range(40)])
    assert len(drawn.unique()) >= 4


def test_replay_of_half_precision_and_tiny_batches():
    buffer = ReplayBuffer(2, 3)
    one = torch.randn(1, 3)
    assert torch.equal(buffer(one), one) and buffer.count == 0, "half of one image is none"
    fake = torch.randn(8, 3, dtype=torch.bfloat16, requires_grad=True)
    mixed = buffer(fake)
    assert mixed.dtype == torch.bfloat16 and not mixed.requires_grad and buffer.images.dtype == torch.float32
    assert buffer.count == 2, "no more than it holds"
    with pytest.raises(ValueError, match="size is 0"):
        ReplayBuffer(0, 3)
