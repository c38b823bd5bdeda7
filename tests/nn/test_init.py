"""dcgan_init: which layers it changes and how."""

import torch
from torch import nn

from fastgan.nn import dcgan_init, fuse


def make():
    return nn.Sequential(
        nn.Conv2d(16, 64, 5), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 32, 5), nn.BatchNorm2d(32, affine=False),
        nn.Linear(200, 100), nn.InstanceNorm2d(3, affine=True),
    )  # fmt: skip


def test_distributions():
    torch.manual_seed(0)
    model = make()
    biases = [m.bias.clone() for m in (model[0], model[2], model[4])]
    assert dcgan_init(model) is model
    for m in (model[0], model[2], model[4]):
        n = m.weight.numel()
        assert abs(m.weight.mean()) < 5 * 0.02 / n**0.5  # five standard errors
        assert abs(m.weight.std() / 0.02 - 1) < 5 / (2 * n) ** 0.5
    assert abs(model[1].weight.mean() - 1) < 5 * 0.02 / 8
    assert 0.01 < model[1].weight.std() < 0.03
    assert not model[1].bias.any()
    assert all(torch.equal(a, m.bias) for a, m in zip(biases, (model[0], model[2], model[4]), strict=True))
    assert (model[5].weight == 1).all()


def test_same_draws_fused():
    torch.manual_seed(0)
    plain = dcgan_init(make()).state_dict()
    torch.manual_seed(0)
    fused = dcgan_init(fuse(make())).state_dict()
    assert all(torch.equal(plain[k], fused[k]) for k in plain if "weight" in k)
