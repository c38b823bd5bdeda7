"""WGAN and WGAN-GP: what the papers demand of the critic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgan.architectures.base import Architecture
from fastgan.data.batch import Batch
from fastgan.ops import gradient_penalty
from fastgan.registry import create

from .walk import batches_of, set_trainable, update, walk

SMALL = {"image_size": 16, "ngf": 4, "ndf": 4}


def test_wgan_s_critic_updates():
    wgan = create("wgan", **SMALL)
    updates = [wgan.phases()[0].repeats(step) for step in (0, 24, 25, 499, 500, 501, 1000)]
    assert updates == [100, 100, 5, 5, 100, 5, 100]


def test_wgan_walks_the_changing_number_of_updates():
    wgan = create("wgan", **SMALL, n_critic=1, n_critic_warmup=2)
    batch = Batch(image=torch.rand(4, 3, 16, 16) * 2 - 1)
    updates = walk(wgan, batches_of(batch), steps=27)
    assert updates == {("train", "critic"): 25 * 2 + 2 * 1, ("train", "generator"): 27}


def test_wgan_s_critic_stays_in_its_cube_after_every_update():
    wgan = create("wgan", **SMALL, clip_value=0.005)
    phase = wgan.phases()[0]
    optimizer = phase.optimizer(phase.parameters)
    batch = Batch(image=torch.rand(4, 3, 16, 16) * 2 - 1)
    assert max(p.abs().max() for p in wgan.critic.parameters()) > 0.5  # batch norm's gain starts at 1
    before = [p.clone() for p in wgan.generator.parameters()]
    for _ in range(2):
        update(phase, optimizer, batch, step=0)
        assert max(p.abs().max() for p in wgan.critic.parameters()) <= 0.005
    assert all(torch.equal(a, b) for a, b in zip(before, wgan.generator.parameters(), strict=True))


def test_rmsprop_has_the_paper_s_settings():
    for phase in create("wgan", **SMALL).phases():
        settings = phase.optimizer(phase.parameters).param_groups[0]
        assert (settings["lr"], settings["momentum"], settings["alpha"]) == (5e-5, 0, 0.99)


def test_norm_is_where_the_papers_want_it():
    def norms(network: nn.Module) -> int:
        return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())

    wgan = create("wgan", **SMALL)
    assert norms(wgan.generator) == 2 and norms(wgan.critic) == 1
    bare = create("wgan", **SMALL, generator_norm=False, critic_norm=False)
    assert norms(bare) == 0
    assert norms(create("wgan_gp", **SMALL).critic) == 0, "the penalty is about each sample alone"


def test_critic_s_outputs_do_not_see_each_other_under_a_penalty():
    critic = create("wgan_gp", **SMALL).critic
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]))


@pytest.mark.parametrize(("image_size", "beta1"), [(16, 0.5), (32, 0.5), (64, 0.0)])
def test_wgan_gp_s_adam(image_size, beta1):
    for phase in create("wgan_gp", image_size=image_size, ngf=2, ndf=2).phases():
        settings = phase.optimizer(phase.parameters).defaults
        assert (settings["lr"], settings["betas"]) == (1e-4, (beta1, 0.9))
    chosen = create("wgan_gp", image_size=image_size, ngf=2, ndf=2, beta1=0.3).phases()[0]
    assert chosen.optimizer(chosen.parameters).defaults["betas"] == (0.3, 0.9)
    assert chosen.repeats(0) == 5


def test_wgan_gp_s_penalty_is_that_of_its_critic():
    """Of a linear critic the penalty is known: weight * (|w| - 1)^2, whatever the images are."""
    model = create("wgan_gp", image_size=1, channels=2, generator="mlp", critic="mlp", hidden=4, lambda_gp=7.0)
    model.critic = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.Flatten(0))
    with torch.no_grad():
        model.critic[1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    terms = model.critic_loss(Batch(image=torch.randn(5, 2, 1, 1)), 0)
    assert terms["gradient_penalty"].item() == pytest.approx(7.0 * (5 - 1) ** 2, rel=1e-5)
    assert terms["wasserstein"].item() == pytest.approx(-terms["adversarial"].item())
    assert not terms["wasserstein"].requires_grad


@pytest.mark.parametrize("name", ["wgan", "wgan_gp"])
def test_fakes_are_constants_in_the_critic_s_update(name):
    model: Architecture = create(name, **SMALL)
    terms = model.critic_loss(Batch(image=torch.rand(4, 3, 16, 16)), 0)
    sum(term for term in terms.values() if term.requires_grad).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.critic.parameters())


@pytest.mark.parametrize("name", ["wgan", "wgan_gp"])
@pytest.mark.parametrize(("generator", "critic"), [("mlp", "dcgan"), ("dcgan", "mlp"), ("mlp", "mlp")])
def test_perceptrons_take_the_place_of_convolutions(name, generator, critic):
    model = create(name, image_size=16, generator=generator, critic=critic, hidden=8, ngf=2, ndf=2)
    images = model.sample(3)
    assert images.shape == (3, 3, 16, 16) and images.abs().max() <= 1
    for phase in model.phases():
        set_trainable(model, phase)
        update(phase, phase.optimizer(phase.parameters), Batch(image=images), step=0)


@pytest.mark.parametrize("name", ["wgan", "wgan_gp"])
def test_points_in_the_plane(name):
    model = create(name, image_size=1, channels=2, generator="mlp", critic="mlp", hidden=8)
    assert model.sample(3).shape == (3, 2, 1, 1)
    for phase in model.phases():
        set_trainable(model, phase)
        update(phase, phase.optimizer(phase.parameters), Batch(image=torch.randn(4, 2, 1, 1)), step=0)
    with pytest.raises(ValueError, match="takes generator='mlp' and critic='mlp'"):
        create(name, image_size=1)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("critic", ["dcgan", "mlp"])
def test_wgan_gp_s_critics_have_the_analytic_penalty(critic, fuse):
    """They are piecewise linear, so that the cheaper of the penalty's two ways is open; both give the same."""
    model = create("wgan_gp", **SMALL, critic=critic, hidden=8, fuse=fuse)
    real, fake, epsilon = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16), torch.rand(4)
    values, grads = [], []
    for method in ("analytic", "autograd"):
        penalty = gradient_penalty(model.critic, real, fake, epsilon=epsilon, method=method)
        values.append(penalty)
        grads.append(torch.autograd.grad(penalty, list(model.critic.parameters()), allow_unused=True))
    torch.testing.assert_close(*values)
    for a, b in zip(*grads, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_wgan_gp_s_learning_rate():
    assert all(phase.schedule is None for phase in create("wgan_gp", **SMALL).phases()), "by default it stays"
    falling = create("wgan_gp", **SMALL, lr=2e-4, lr_decay_steps=100)
    for phase in falling.phases():
        assert [phase.schedule(step)["lr"] for step in (0, 25, 100, 101)] == pytest.approx([2e-4, 1.5e-4, 0, 0])
