"""Augmentation of the discriminator's pictures by the trainer: where it acts, what it keeps, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import fastgan
from fastgan.architectures import dcgan
from fastgan.architectures.base import Architecture
from fastgan.nn import AdaptiveAugment, DiffAugment
from fastgan.training.augment import DiscriminatorAugment
from fastgan.training.checkpoint import read_checkpoint

from .cpu_graphs import CpuRecorder
from .stubs import SMALL, Images, build

DCGAN = {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}


def trainer(name: str = "dcgan", out: Path | None = None, **options) -> fastgan.Trainer:
    torch.manual_seed(5)
    options = {"steps": 2, "batch_size": 4, "progress": False, **options}
    return fastgan.Trainer(fastgan.create(name, **SMALL[name]), Images(20, 16), out=out, **options)


class Half(nn.Module):
    """Halves pictures and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return x / 2


def test_real_and_generated_pictures_pass_through_it_in_both_updates() -> None:
    half = Half()
    training = trainer(augment=half, steps=1)
    discriminator, seen = training.architecture.discriminator, []
    discriminator.layers.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    batch = training.batches.next()
    training.batches.close()
    training.batches.position = 0
    training.fit()
    assert len(half.seen) == len(seen) == 3  # real, fake, and the generator's
    assert torch.equal(half.seen[0], batch.image)
    assert all(torch.equal(given / 2, got) for given, got in zip(half.seen, seen, strict=True))
    assert [x.requires_grad for x in half.seen] == [False, False, True]  # the generator learns through it
    discriminator(batch.image)
    assert len(half.seen) == 3  # nothing stays behind


def test_the_generator_s_gradient_is_that_of_the_augmented_picture() -> None:
    gan = fastgan.create("dcgan", **DCGAN).train()
    latent = torch.randn(4, 8)
    batch = fastgan.Batch(image=torch.zeros(4, 1, 16, 16), latent=latent)
    augment = DiscriminatorAugment(gan, "diffaugment", torch.device("cpu"))
    with augment.installed():
        torch.manual_seed(0)
        gan.generator_loss(batch, 0)["adversarial"].backward()
    got = gan.generator.layers[0].weight.grad.clone()
    gan.zero_grad()
    torch.manual_seed(0)
    logits = gan.discriminator(DiffAugment()(gan.generate(batch)))
    fastgan.losses.non_saturating_generator(logits).backward()
    torch.testing.assert_close(got, gan.generator.layers[0].weight.grad)


def test_outside_train_mode_pictures_are_left_alone() -> None:
    gan, half = fastgan.create("dcgan", **DCGAN), Half()
    with DiscriminatorAugment(gan, half, torch.device("cpu")).installed():
        gan.eval().discriminator(torch.zeros(2, 1, 16, 16))
        assert not half.seen
        gan.train().discriminator(torch.zeros(2, 1, 16, 16))
        assert len(half.seen) == 1


def test_a_gradient_penalty_is_that_of_the_augmented_critic() -> None:
    gan, half = fastgan.create("wgan_gp", **SMALL["wgan_gp"]), Half()
    real, fake = torch.randn(3, 1, 16, 16), torch.randn(3, 1, 16, 16)
    epsilon = torch.tensor([0.1, 0.5, 0.9])
    with DiscriminatorAugment(gan, half, torch.device("cpu")).installed():
        got = fastgan.ops.gradient_penalty(gan.critic, real, fake, epsilon=epsilon)
        with pytest.raises(ValueError, match="method='analytic' does not cover this critic: .* has hooks"):
            fastgan.ops.gradient_penalty(gan.critic, real, fake, method="analytic")
    expected = fastgan.ops.gradient_penalty(lambda x: gan.critic(x / 2), real, fake, epsilon=epsilon)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("name", "augment"), [("wgan_gp", "diffaugment"), ("wgan", "diffaugment"), ("dcgan", "ada")])
def test_architectures_train_with_it(name: str, augment: str) -> None:
    training = trainer(name, augment=augment)
    training.fit()
    assert training.step == 2


def ada() -> AdaptiveAugment:
    return AdaptiveAugment(target=0.01, images=40, interval=2)  # p moves at once


def test_ada_s_probability_follows_the_reals_and_is_recorded(tmp_path: Path) -> None:
    training = trainer(out=tmp_path, augment=ada(), steps=6, log_every=1)
    observed = []
    training.augment.module.observe = lambda logits, observe=training.augment.module.observe: (
        observed.append(logits.detach()),
        observe(logits),
    )
    training.fit()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    p, expected = 0.0, []
    for step in range(6):
        if step % 2:
            sign = torch.cat(observed[step - 1 : step + 1]).sign().mean().item()
            p = min(max(p + (0.2 if sign > 0.01 else -0.2), 0.0), 1.0)
        expected.append(p)
    assert len(observed) == 6 and all(len(logits) == 4 for logits in observed)
    assert [record["augment_p"] for record in records] == pytest.approx(expected)


@pytest.mark.parametrize("augment", ["diffaugment", "ada"])
def test_a_resumed_run_is_bit_exact(tmp_path: Path, augment: str) -> None:
    def run(out: Path, steps: int) -> None:
        build("dcgan", str(out), steps=steps, augment=ada() if augment == "ada" else augment, checkpoint_every=3).fit()

    run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    run(tmp_path / "parts", 6)
    last = [tmp_path / run / "checkpoints" / "last.safetensors" for run in ("whole", "parts")]
    assert last[0].read_bytes() == last[1].read_bytes()
    if augment == "ada":
        state = read_checkpoint(last[0])["augment"]
        assert set(state) == {"p", "signs", "logits", "batches"} and state["batches"] in (0, 1)


def test_a_run_goes_on_with_its_own_augmentation_only(tmp_path: Path) -> None:
    trainer(out=tmp_path, augment="diffaugment").fit()
    with pytest.raises(
        fastgan.training.checkpoint.CheckpointError, match='augment: the run has "diffaugment", asked "ad'
    ):
        trainer(out=tmp_path, augment="ada", steps=4).fit()


def test_fit_again_begins_at_probability_zero() -> None:
    training = trainer(augment=ada(), steps=1)
    training.augment.module.p.fill_(0.5)
    training.fit()
    assert training.augment.module.batches == 1 and training.augment.module.p == 0


class Joint(dcgan.DCGAN):
    """Shows its discriminator real and generated pictures in one batch."""

    def discriminator_loss(self, batch, step):
        return {"loss": self.discriminator(torch.cat([batch.image, self.generate(batch).detach()])).mean()}


def test_ada_must_see_the_reals_alone() -> None:
    joint = Joint(dcgan.DCGAN.Config(**DCGAN))
    with pytest.raises(ValueError, match="no discriminator was called on batch.image alone, which ada adapts by: use"):
        fastgan.Trainer(joint, Images(20, 16), steps=1, augment="ada", progress=False).fit()


class Pictures(nn.Module):
    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        raise AssertionError("refused before")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [(((2, 256), (2, 3)), r"called on \(2, 256\) and \(2, 3\)"), (((2, 1, 4, 4), (2, 3, 4, 4)), r"\(2, 3, 4, 4\)")],
)
def test_what_is_no_single_picture_is_refused(shapes: tuple, message: str) -> None:
    gan = fastgan.create("dcgan", **DCGAN)
    gan.discriminator = Pictures()
    with (
        DiscriminatorAugment(gan, "diffaugment", torch.device("cpu")).installed(),
        pytest.raises(ValueError, match="augment takes one tensor of pictures .*" + message),
    ):
        gan.discriminator(*map(torch.zeros, shapes))


@pytest.mark.parametrize(
    ("name", "augment", "error", "message"),
    [
        ("dcgan", "mixup", ValueError, "augment is 'mixup'; it takes 'diffaugment' or 'ada', or a module on pictures"),
        ("dcgan", 3, TypeError, "augment is a int; it takes a name"),
        ("wgan", "ada", ValueError, "WGAN has a critic, whose output's sign says nothing of overfitting"),
    ],
)
def test_bad_arguments(name: str, augment: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer(name, augment=augment)


def test_an_architecture_without_a_discriminator_is_named() -> None:
    class Nothing(Architecture):
        def __init__(self) -> None:
            super().__init__(self.Config())
            self.generator = nn.Linear(1, 1)

    with pytest.raises(ValueError, match="Nothing.discriminators names 'discriminator', which is no submodule of it"):
        DiscriminatorAugment(Nothing(), "ada", torch.device("cpu"))


def test_graphs_leave_it_eager_and_say_so(recorder: CpuRecorder) -> None:
    training = trainer(augment="diffaugment", steps=6, cuda_graph=True)
    training.fit()
    for phase in ("discriminator", "generator"):
        assert "has a hook, which a replay would not call" in training.updates.report[f"train/{phase}"]


def test_registered_architectures_name_their_discriminators() -> None:
    for name in fastgan.list_architectures():
        gan = fastgan.create(name, **SMALL.get(name, {"image_size": 16}))
        for part in gan.discriminators:
            assert isinstance(getattr(gan, part, None), nn.Module), f"{name}.discriminators names {part!r}"
