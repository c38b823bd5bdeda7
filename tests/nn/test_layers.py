"""Layers that torch lacks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan.nn import (
    AlwaysDropout,
    GaussianNoise,
    HistoricalAverage,
    MinibatchDiscrimination,
    ReplayBuffer,
    VirtualBatchNorm,
    fuse,
    kept_statistics,
    virtual_batch_norm_,
)


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


def test_gaussian_noise_in_train_mode_alone():
    layer, x = GaussianNoise(0.5), torch.ones(20_000)
    noisy = layer(x)
    assert noisy.mean().item() == pytest.approx(1.0, abs=0.02) and noisy.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_minibatch_discrimination_by_hand():
    layer = MinibatchDiscrimination(1, kernels=2, kernel_dim=1)
    layer.weight.data = torch.tensor([[1.0, 2.0]])
    x = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 3 and 2; twice that in the second kernel
    e = [math.exp(-d) for d in range(7)]
    expected = [[e[1] + e[3], e[2] + e[6]], [e[1] + e[2], e[2] + e[4]], [e[3] + e[2], e[6] + e[4]]]
    y = layer(x)
    assert torch.equal(y[:, :1], x)
    assert torch.allclose(y[:, 1:], torch.tensor(expected))
    assert torch.allclose(layer(x[:1])[:, 1:], torch.zeros(1, 2), atol=1e-6), "nobody else"
    layer = MinibatchDiscrimination(4, 3, 2).double()
    assert torch.autograd.gradgradcheck(layer, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_virtual_batch_norm_by_hand():
    layer = VirtualBatchNorm(1, reference=2, eps=0.0)
    y = layer(torch.tensor([[-1.0], [1.0], [3.0]]))
    # reference: mean 0, variance 1; with 3 as the third: mean 1, variance (4 + 0 + 4) / 3
    assert y.flatten().tolist() == pytest.approx([-1.0, 1.0, 2 / math.sqrt(8 / 3)])


def test_virtual_batch_norm_of_pictures():
    layer, x = VirtualBatchNorm(3, reference=4).double(), torch.randn(7, 3, 5, 5, dtype=torch.float64)
    y = layer(x)
    assert torch.allclose(y[:4], F.batch_norm(x[:4], None, None, training=True))
    for i in (4, 6):  # as batch norm of the reference batch and this one, whatever the others are
        both = F.batch_norm(torch.cat([x[:4], x[i : i + 1]]), None, None, training=True)
        assert torch.allclose(y[i], both[4])
    assert torch.equal(layer.eval()(x), y) and len(layer(x[:4])) == 4
    with pytest.raises(ValueError, match="a reference batch of 4 samples, got 3"):
        layer(x[:3])
    with pytest.raises(ValueError, match="reference takes at least 2"):
        VirtualBatchNorm(3, 1)


def test_a_network_of_virtual_batch_norms():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, affine=False)))
    plain[1].weight.data.uniform_(1, 2)
    weight, reference = plain[1].weight.clone(), torch.randn(5, 2)
    network = virtual_batch_norm_(plain, reference)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert torch.equal(plain[1].weight, weight) and torch.equal(network.state_dict()["reference"], reference)
    x = torch.randn(4, 2)
    assert network(x).shape == (4, 3)
    assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-6), "a sample alone is as among others"


def test_historical_average_by_hand():
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(0.0))]
    history = HistoricalAverage(parameters)
    assert history(parameters).item() == 0
    for values in ([3.0, 2.0], [5.0, 2.0]):
        parameters[0].data = torch.tensor(values)
        history.update(parameters)
    parameters[1].data += 1.0
    distance = history(parameters)  # (5 - 4)^2 + 0 + (1 - 0)^2
    assert distance.item() == 2.0
    distance.backward()
    assert parameters[0].grad.tolist() == [2.0, 0.0]
    assert set(history.state_dict()) == {"mean_0", "mean_1", "count"} and history.count == 2


@pytest.mark.parametrize("fused", [False, True])
def test_kept_statistics(fused):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    network = fuse(network) if fused else network
    x, before = torch.randn(4, 1, 6, 6), {k: v.clone() for k, v in network.state_dict().items()}
    with kept_statistics(network):
        inside = network(x)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(network(x), inside), "normalised by the batch"
    assert not torch.equal(network[1].running_mean, before["1.running_mean"]), "and back to counting"
