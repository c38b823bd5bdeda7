"""The variations of the two-player game: each option does what its line of help says, and nothing at its default."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import losses
from fastgan.architectures._game import Game, Loss
from fastgan.architectures.base import Architecture
from fastgan.data.batch import Batch
from fastgan.registry import create

from .walk import batches_of, set_trainable, update, walk

N = 6


def build(**options) -> Architecture:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}
    return create("dcgan", **{**sizes, **options})


def batch() -> Batch:
    return Batch(image=torch.rand(N, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1)


def inputs_of(network: nn.Module) -> list[torch.Tensor]:
    """What ``network`` is given from here on."""
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    return seen


# -- losses ------------------------------------------------------------------------------------------------------------


def test_every_loss_of_the_table_is_an_option():
    assert set(Loss.__args__) == set(losses.LOSSES)


@pytest.mark.parametrize("loss", list(losses.LOSSES))
def test_both_networks_are_driven_by_the_loss_asked_for(loss):
    model = build(loss=loss)
    images = batch()
    terms = {}
    for phase in model.phases():
        set_trainable(model, phase)
        torch.manual_seed(3)
        terms[phase.name] = phase.loss(images, 0)
        sum(t for t in terms[phase.name].values() if t.requires_grad).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in phase.parameters)
    torch.manual_seed(3)
    with torch.no_grad():
        fake = model.generate(images)
        real_logits, fake_logits = model.discriminator(images.image), model.discriminator(fake)
    row = losses.LOSSES[loss]
    expected = row.discriminator(real_logits, fake_logits)
    torch.testing.assert_close(terms["discriminator"]["adversarial"].detach(), expected)
    expected = row.generator(fake_logits, real_logits) if row.relativistic else row.generator(fake_logits)
    torch.testing.assert_close(terms["generator"]["adversarial"].detach(), expected)
    probabilities = {"p_real", "p_fake"} & terms["discriminator"].keys()
    assert bool(probabilities) == (loss in ("minimax", "non_saturating")), "other logits are no probabilities"


def test_labels_reach_the_loss():
    plain, smooth, flipped = build(), build(label_smoothing=0.3), build(label_flip=1.0)
    values = {}
    for name, model in (("plain", plain), ("smooth", smooth), ("flipped", flipped)):
        torch.manual_seed(4)
        values[name] = model.discriminator_loss(batch(), 0)["adversarial"].item()
    torch.manual_seed(4)
    fake = plain.generate(batch())
    real_logits, fake_logits = plain.discriminator(batch().image), plain.discriminator(fake)
    moved = 0.3 * (F.softplus(real_logits) - F.softplus(-real_logits)).mean().item()
    assert values["smooth"] == pytest.approx(values["plain"] + moved, rel=1e-5)
    swapped = losses.minimax_discriminator(fake_logits, real_logits).item()
    assert values["flipped"] == pytest.approx(swapped, rel=1e-5)


@pytest.mark.parametrize("loss", ["wasserstein", "hinge", "relativistic", "relativistic_average"])
@pytest.mark.parametrize("option", ["label_smoothing", "label_flip"])
def test_losses_without_labels_refuse_them(loss, option):
    with pytest.raises(ValueError, match=f"take a loss that has labels .*least_squares.*, not '{loss}'"):
        build(loss=loss, **{option: 0.1})


# -- penalties ---------------------------------------------------------------------------------------------------------


def double_backward(model: Architecture, image: torch.Tensor) -> torch.Tensor:
    """E[||grad||^2] as everybody writes it."""
    image = image.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model.discriminator(image).sum(), image, create_graph=True)
    return grad.flatten(1).square().sum(1).mean()


@pytest.mark.parametrize("norm", ["batch", "spectral", "none"])
@pytest.mark.parametrize("regularizer", ["r1", "r2", "r1_r2"])
def test_r1_and_r2_are_those_of_double_backward(regularizer, norm):
    model = build(regularizer=regularizer, regularizer_weight=3.0, discriminator_norm=norm).double()
    if norm == "spectral":  # whose singular vectors move at every call in train mode
        model.discriminator.eval()
    images = batch().replace(image=batch().image.double())
    torch.manual_seed(5)
    terms = model.discriminator_loss(images, 0)
    torch.manual_seed(5)
    fake = model.generate(images).detach()
    parameters = list(model.discriminator.parameters())
    for name, image in (("r1", images.image), ("r2", fake)):
        assert (name in terms) == (name in regularizer)
        if name in terms:
            expected = 1.5 * double_backward(model, image)
            torch.testing.assert_close(terms[name], expected)
            ours = torch.autograd.grad(terms[name], parameters, allow_unused=True)
            exact = torch.autograd.grad(expected, parameters, allow_unused=True)
            for a, b in zip(ours, exact, strict=True):  # a bias moves no slope: None, or zeros
                a, b = (torch.zeros(1).double() if g is None else g for g in (a, b))
                torch.testing.assert_close(a.expand_as(b) if a.numel() == 1 else a, b.expand_as(a))


def test_a_lazy_penalty_comes_rarely_and_harder():
    model = build(regularizer="r1", regularizer_every=4, discriminator_norm="none")
    every = build(regularizer="r1", discriminator_norm="none")
    found = [step for step in range(9) if "r1" in model.discriminator_loss(batch(), step)]
    assert found == [0, 4, 8]
    lazy, plain = (m.discriminator_loss(batch(), 4)["r1"] for m in (model, every))
    torch.testing.assert_close(lazy, 4 * plain)


def test_other_penalties_by_name():
    model = build(discriminator_norm="none", regularizer="gradient_penalty", regularizer_weight=2.0)
    torch.manual_seed(6)
    terms = model.discriminator_loss(batch(), 0)
    torch.manual_seed(6)
    fake = model.generate(batch()).detach()
    expected = fastgan.ops.gradient_penalty(model.discriminator, batch().image, fake, 2.0)
    assert torch.equal(terms["gradient_penalty"], expected)
    model = build(discriminator_norm="none", regularizer="dragan")
    assert model.discriminator_loss(batch(), 0)["dragan"].requires_grad


def test_spectral_norm_bounds_every_layer_and_is_not_fused():
    model = build(discriminator_norm="spectral", image_size=32)
    for _ in range(30):
        model.discriminator(torch.zeros(1, 1, 32, 32))  # each call is a power iteration
    model.eval()
    for layer in model.discriminator.layers:
        if isinstance(layer, nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.discriminator.modules())
    x = torch.randn(2, 1, 32, 32)
    before = model.discriminator(x)
    _, report = fastgan.nn.fuse(model.discriminator, report=True)
    convolutions = {name for name, m in model.discriminator.named_modules() if isinstance(m, nn.Conv2d)}
    assert report.left == dict.fromkeys(convolutions, "it is parametrised (weight or spectral norm)")
    assert not report.fused and not report.alone
    assert torch.equal(model.discriminator(x), before)


# -- tips --------------------------------------------------------------------------------------------------------------


def test_k_discriminator_updates_for_one_of_the_generator():
    assert walk(build(k=3), batches_of(batch()), steps=2) == {("train", "discriminator"): 6, ("train", "generator"): 2}


def test_batches_together_or_apart():
    together, apart = build(separate_batches=False), build()
    seen = {model: inputs_of(model.discriminator) for model in (together, apart)}
    for model in (together, apart):
        model.discriminator_loss(batch(), 0)
    assert [len(x) for x in seen[together]] == [2 * N]
    assert [len(x) for x in seen[apart]] == [N, N]
    assert torch.equal(seen[together][0][:N], batch().image) and torch.equal(seen[apart][0], batch().image)
    bn = [
        next(m for m in model.discriminator.modules() if isinstance(m, nn.BatchNorm2d)) for model in (together, apart)
    ]
    assert [int(m.num_batches_tracked) for m in bn] == [1, 2]


def test_instance_noise_fades():
    model = build(instance_noise=0.5, instance_noise_steps=100)
    seen = inputs_of(model.discriminator)
    deviations = []
    for step in (0, 50, 100, 200):
        model.discriminator_loss(batch(), step)
        deviations.append((seen[-2] - batch().image).std().item())
    assert deviations[:2] == pytest.approx([0.5, 0.25], rel=0.1)  # 1536 draws: a deviation of 2%
    assert deviations[2:] == [0.0, 0.0]
    torch.manual_seed(7)
    model.generator_loss(batch(), 0)
    assert seen[-1].abs().max() > 1, "the generator's images are judged under the same noise"


def test_latents():
    for latent, radius, largest in (("normal", None, math.inf), ("sphere", 8**0.5, 8**0.5), ("uniform", None, 1.0)):
        z = build(latent=latent).latent(500)
        assert z.shape == (500, 8) and z.abs().max() <= largest
        assert abs(z.mean()) < 0.06 and z.std() > 0.5
        if radius:
            torch.testing.assert_close(z.norm(dim=1), torch.full((500,), radius))


def test_sgd_for_the_discriminator_and_adam_for_the_generator():
    discriminator, generator = build(discriminator_optimizer="sgd", discriminator_lr=0.01).phases()
    optimizers = [phase.optimizer(phase.parameters) for phase in (discriminator, generator)]
    assert type(optimizers[0]) is torch.optim.SGD and optimizers[0].defaults["lr"] == 0.01
    assert type(optimizers[1]) is fastgan.optim.Adam and optimizers[1].defaults["lr"] == 2e-4
    discriminator, _ = build(discriminator_lr=0.01).phases()
    adam = discriminator.optimizer(discriminator.parameters)
    assert type(adam) is fastgan.optim.Adam and adam.defaults["lr"] == 0.01 and adam.defaults["betas"] == (0.5, 0.999)


def test_replay_shows_old_images_and_is_part_of_the_state():
    model = build(replay=4)
    seen = inputs_of(model.discriminator)
    phase = model.phases()[0]
    set_trainable(model, phase)
    optimizer = phase.optimizer(phase.parameters)
    for _ in range(3):
        update(phase, optimizer, batch(), 0)
    fakes = seen[1::2]
    assert model.replay.count == 9
    old = fakes[1][:3]
    assert all(any(torch.equal(image, x) for x in fakes[0][:3]) for image in old), "the first batch's, from the buffer"
    assert not any(torch.equal(image, x) for image in fakes[1][3:] for x in fakes[0])
    assert {"replay.images", "replay.count"} <= model.state_dict().keys()
    twin = build(replay=4)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    values = []
    for copy_ in (model, twin):
        torch.manual_seed(8)
        values.append(copy_.discriminator_loss(batch(), 0)["adversarial"])
    assert torch.equal(*values)
    assert build().replay is None and not any("replay" in name for name in build().state_dict())


def test_dropout_stays_on_when_sampling():
    model = build(generator_dropout=0.5, image_size=64)
    z = torch.randn(2, 8)
    model.eval()
    with torch.no_grad():
        first, second = (model.generate(Batch(latent=z)) for _ in range(2))
    assert not torch.equal(first, second)
    fastgan.fuse(model.generator)
    with torch.no_grad():
        assert not torch.equal(model.generate(Batch(latent=z)), model.generate(Batch(latent=z)))
    assert sum(isinstance(m, fastgan.nn.AlwaysDropout) for m in model.generator.modules()) == 3
    plain = build(image_size=64).eval()
    with torch.no_grad():
        assert torch.equal(plain.generate(Batch(latent=z)), plain.generate(Batch(latent=z)))


EVERYTHING = {
    "loss": "least_squares", "label_smoothing": 0.1, "label_flip": 0.05, "regularizer": "r1_r2", "k": 2,
    "regularizer_every": 2, "separate_batches": False, "instance_noise": 0.1, "instance_noise_steps": 5, "replay": 5,
    "latent": "sphere",
    "discriminator_optimizer": "sgd", "discriminator_lr": 1e-3, "discriminator_norm": "spectral",
    "generator_dropout": 0.2,
}  # fmt: skip


def test_a_run_with_every_option_resumes_to_the_bit(tmp_path):
    data = torch.utils.data.TensorDataset(batch().image)
    states = []
    for out, parts in ((tmp_path / "whole", [6]), (tmp_path / "parts", [3, 6])):
        for steps in parts:
            model = build(**EVERYTHING)
            fastgan.Trainer(
                model, data, steps=steps, batch_size=3, out=out, progress=False, checkpoint_every=3, sample_every=None
            ).fit()
        states.append(model.state_dict())
    assert [k for k in states[0] if not torch.equal(states[0][k], states[1][k])] == []
    assert set(EVERYTHING) <= set(Game.Config.__dataclass_fields__) | {"discriminator_norm", "generator_dropout"}
