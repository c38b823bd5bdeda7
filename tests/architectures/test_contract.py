"""The contract carries its hardest users: they train through the same walk over stages and phases as every GAN."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch

from fastgan.architectures.base import Architecture, Phase, option
from fastgan.data.batch import Batch

from .stubs import CDNA, VAT, SimGAN, StackGAN
from .walk import batches_of, set_trainable, update, walk

N = 4


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape) * 2 - 1


BATCHES = {
    SimGAN: lambda: Batch(image=images(N, 1, 16, 16), source=images(N, 1, 16, 16)),
    StackGAN: lambda: Batch(image=images(N, 3, 16, 16), text=torch.randn(N, 5)),
    VAT: lambda: Batch(image=images(N, 3, 16, 16), label=torch.tensor([0, 2, -1, -1])),
    CDNA: lambda: Batch(image=images(N, 5, 3, 16, 16), action=torch.randn(N, 5, 2), state=torch.randn(N, 5, 2)),
}


@pytest.fixture(params=list(BATCHES), ids=lambda cls: cls.__name__)
def case(request) -> tuple[Architecture, Batch]:
    torch.manual_seed(0)
    return request.param(request.param.Config()), BATCHES[request.param]()


def test_a_walk_trains_every_phase(case):
    architecture, batch = case
    before = copy.deepcopy(architecture.state_dict())
    walk(architecture, batches_of(batch), steps=2)
    for name, p in architecture.named_parameters():
        assert torch.isfinite(p).all(), name
        assert not torch.equal(p, before[name]), f"{name} never moved"


def test_needs_are_read_and_nothing_else(case):
    architecture, batch = case
    assert not batch.missing(architecture.needs)
    only = Batch(**{name: getattr(batch, name) for name in architecture.needs})
    walk(architecture, batches_of(only), steps=1)


def test_state_dict_holds_all_state(case):
    """A copy made from the state_dict alone goes on exactly like the original."""
    architecture, batch = case
    walk(architecture, batches_of(batch), steps=2)
    twin = type(architecture)(architecture.config)
    twin.load_state_dict(architecture.state_dict())
    for model in (architecture, twin):
        torch.manual_seed(1)
        walk(model, batches_of(batch), steps=2)
    for name, value in architecture.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def test_phases_leave_other_parameters_without_gradient(case):
    architecture, batch = case
    for stage in architecture.stages():
        for phase in stage.phases:
            architecture.zero_grad()
            set_trainable(architecture, phase)
            update(phase, phase.optimizer(phase.parameters), batch, step=0)
            trained = {id(p) for p in phase.parameters}
            for name, p in architecture.named_parameters():
                assert (p.grad is not None) == (id(p) in trained), f"{stage.name}, {phase.name}: {name}"


def test_deepcopy_trains_apart(case):
    architecture, batch = case
    twin = copy.deepcopy(architecture)
    walk(twin, batches_of(batch), steps=1)
    changed = [not torch.equal(a, b) for a, b in zip(architecture.parameters(), twin.parameters(), strict=True)]
    assert all(changed)


def test_sample_without_condition_names_what_is_missing(case):
    architecture, _ = case
    with pytest.raises(TypeError, match=f"Batch with {architecture.conditions[0]}"):
        architecture.sample(2)


def test_simgan_stages_repeats_and_history():
    model, batch = SimGAN(SimGAN.Config()), BATCHES[SimGAN]()
    drawn = []

    def batches():
        while True:
            drawn.append(1)
            yield batch

    updates = walk(model, batches(), steps=3)
    assert updates == {
        ("refiner warm-up", "refiner"): 2,
        ("discriminator warm-up", "discriminator"): 1,
        ("adversarial", "refiner"): 6,
        ("adversarial", "discriminator"): 3,
    }
    # a batch for each warm-up update and each refiner update; the last phase takes the batch of the one before
    assert len(drawn) == 2 + 1 + 6
    assert model.remembered == (1 + 3) * (N // 2)
    assert (model.history.flatten(1).abs().sum(1) > 0).all(), "4 x 2 images fill 6 places"
    assert "history" in model.state_dict()


def test_stackgan_generates_what_it_has_learnt_so_far():
    model, batch = StackGAN(StackGAN.Config()), BATCHES[StackGAN]()
    first, second = model.stages()
    optimizers = [phase.optimizer(phase.parameters) for phase in first.phases]
    for phase, optimizer in zip(first.phases, optimizers, strict=True):
        update(phase, optimizer, batch, step=0)
    assert model.generate(batch).shape == (N, 3, 8, 8)
    assert optimizers[0].param_groups[0]["lr"] == 2e-4
    assert first.phases[0].schedule(150)["lr"] == 2e-4 / 8
    for phase in second.phases:
        update(phase, phase.optimizer(phase.parameters), batch, step=0)
    assert model.generate(batch).shape == (N, 3, 16, 16)
    twin = StackGAN(model.config)
    twin.load_state_dict(model.state_dict())
    assert twin.generate(batch).shape == (N, 3, 16, 16), "the stage reached is part of the state"


def test_vat_predicts_and_does_not_generate():
    model, batch = VAT(VAT.Config()), BATCHES[VAT]()
    assert model.predict(batch).shape == (N, 3)
    assert model.generators == ()
    with pytest.raises(NotImplementedError, match="VAT does not generate images"):
        model.generate(batch)
    unlabelled = batch.replace(label=torch.full((N,), -1))
    assert model.loss(unlabelled, 0)["supervised"] == 0, "a batch without labels is no NaN"


def test_cdna_predicts_video():
    model, batch = CDNA(CDNA.Config()), BATCHES[CDNA]()
    assert model.generate(batch).shape == (N, 3, 3, 16, 16)
    with pytest.raises(ValueError, match="videos"):
        model.generate(batch.replace(image=images(N, 3, 16, 16)))
    changed = batch.replace(action=batch.action + 1)
    assert not torch.equal(model.generate(batch), model.generate(changed)), "actions matter"
    future = batch.image.clone()
    future[:, CDNA.CONTEXT :] = 0
    assert torch.equal(model.generate(batch), model.generate(batch.replace(image=future))), "the future is not seen"


class Bare(Architecture):
    """No phases, no noise."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        depth: int = option(1, "how deep", minimum=1)


def test_what_an_architecture_lacks_is_said():
    bare = Bare(Bare.Config())
    with pytest.raises(NotImplementedError, match="neither phases"):
        bare.stages()
    with pytest.raises(NotImplementedError, match="takes no noise"):
        bare.latent(1)
    with pytest.raises(NotImplementedError, match="does not classify"):
        bare.predict(Batch())
    with pytest.raises(ValueError, match="has no parameters"):
        Phase("empty", [], torch.optim.SGD, lambda batch, step: {})
