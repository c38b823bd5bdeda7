"""One generator against one discriminator, with the published variations of that game as options.

Not an architecture: one that has a ``generator`` and a ``discriminator`` inherits ``Game`` and keeps its networks, its
paper's defaults and its optimisers. With the options at their defaults the game is the plain one of Goodfellow et al.
2014: the non-saturating loss, one update of each network, all-real and all-fake batches.

What changes a loss, a network or their input is an option here, because a checkpoint means nothing without it; how
numbers are computed (precision) is the Trainer's; what only watches (gradient norms) is a callback.

Sources of the variations, beside those in losses.py: Chintala et al. 2016, "How to train a GAN?"; White 2016,
"Sampling Generative Networks" (sphere); Sonderby et al. 2017, "Amortised MAP Inference for Image Super-Resolution"
(instance noise); Shrivastava et al. 2017 (replay); Heusel et al. 2017 (a learning rate for each network); Karras et al.
2020, "Analyzing and Improving the Image Quality of StyleGAN", appendix B (a penalty at every so many steps only).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F

from fastgan import losses
from fastgan.architectures.base import Architecture, Losses, Phase, option
from fastgan.data.batch import Batch
from fastgan.nn.layers import ReplayBuffer
from fastgan.ops import gradient_penalty

__all__ = ["Game"]

Loss = Literal[
    "minimax", "non_saturating", "least_squares", "wasserstein", "hinge", "relativistic", "relativistic_average"
]


class Game(Architecture):
    """Losses and phases of ``self.generator`` and ``self.discriminator``; its Config has ``lr`` and ``z_dim`` too."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        loss: Loss = option("non_saturating", "the adversarial loss of both networks (fastgan.losses)")
        label_smoothing: float = option(
            0.0, "real images' labels are so much nearer to the fake ones' (one-sided)", minimum=0.0, maximum=1.0
        )
        label_flip: float = option(0.0, "share of labels told wrongly to the discriminator", minimum=0.0, maximum=1.0)
        regularizer: Literal["none", "r1", "r2", "r1_r2", "gradient_penalty", "dragan"] = option(
            "none", "penalty on the gradient at the discriminator's input"
        )
        regularizer_weight: float = option(10.0, "its weight: gamma of R1 and R2, lambda of the others", minimum=0.0)
        regularizer_every: int = option(
            1, "penalise at every so many steps, so many times as hard; above 1 without CUDA graph", minimum=1
        )
        k: int = option(1, "discriminator updates for one of the generator", minimum=1)
        separate_batches: bool = option(True, "real and fake images go through the discriminator apart (batch norm)")
        instance_noise: float = option(
            0.0,
            "deviation of the noise on the discriminator's inputs at first; above 0 without CUDA graph",
            minimum=0.0,
        )
        instance_noise_steps: int = option(10_000, "steps over which that noise fades to nothing", minimum=1)
        replay: int = option(0, "old fake images kept to make half of the discriminator's; 0: none", minimum=0)
        latent: Literal["normal", "sphere", "uniform"] = option(
            "normal", "noise from N(0, 1), from the sphere of radius sqrt(z_dim), or from U(-1, 1)"
        )
        discriminator_optimizer: Literal["same", "sgd"] = option("same", "the generator's, or plain SGD")
        discriminator_lr: float | None = option(None, "the discriminator's learning rate; None: lr", minimum=0.0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if (self.label_smoothing or self.label_flip) and not losses.LOSSES[self.loss].labels:
                takers = [name for name, loss in losses.LOSSES.items() if loss.labels]
                raise ValueError(
                    f"label_smoothing and label_flip take a loss that has labels ({', '.join(takers)}), "
                    f"not {self.loss!r}"
                )

    def __init__(self, config: Game.Config) -> None:
        super().__init__(config)
        shape = (config.channels, config.image_size, config.image_size)
        self.replay = ReplayBuffer(config.replay, *shape) if config.replay else None

    def players(self, optimizer: Callable[..., torch.optim.Optimizer]) -> list[Phase]:
        """The two phases; ``optimizer(parameters, lr=...)`` is G's and, unless options say otherwise, D's too."""
        c = self.config
        lr = c.lr if c.discriminator_lr is None else c.discriminator_lr
        judge = partial(torch.optim.SGD if c.discriminator_optimizer == "sgd" else optimizer, lr=lr)
        return [
            Phase("discriminator", self.discriminator.parameters(), judge, self.discriminator_loss, repeat=c.k),
            Phase("generator", self.generator.parameters(), optimizer, self.generator_loss, fresh_batch=False),
        ]

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        c, real, given = self.config, self.real(batch), self.given(batch)
        with torch.no_grad():
            fake = self.generate(batch)
        if self.replay is not None:
            fake = self.replay(fake)
        real, fake = self.noisy(real, step), self.noisy(fake, step)
        real_logits, fake_logits = self._judge(real, fake, given)
        labels = {"label_smoothing": c.label_smoothing, "label_flip": c.label_flip} if self._loss.labels else {}
        return {
            "adversarial": self._loss.discriminator(real_logits, fake_logits, **labels),
            **self._penalties(real, fake, given, step),
            **self._judgement(real_logits.detach(), fake_logits.detach()),
        }

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        return {"adversarial": self.adversarial(self.generate(batch), batch, step)}

    def adversarial(self, fake: torch.Tensor, batch: Batch, step: int) -> torch.Tensor:
        """The generator's side of the game, for images ``fake`` that it made for ``batch``."""
        given = self.given(batch)
        fake_logits = self.discriminator(self.noisy(fake, step), *given)
        if not self._loss.relativistic:
            return self._loss.generator(fake_logits)
        with torch.no_grad():
            real_logits = self.discriminator(self.noisy(self.real(batch), step), *given)
        return self._loss.generator(fake_logits, real_logits)

    def given(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """What the discriminator is given beside the pictures, real or generated, of ``batch``: conditions (N, ...)."""
        return ()

    def noisy(self, image: torch.Tensor, step: int) -> torch.Tensor:
        """What the discriminator is shown of ``image`` at ``step``."""
        c = self.config
        if not c.instance_noise:  # the step is not looked at: it is unknown where a CUDA graph is recorded
            return image
        deviation = c.instance_noise * max(0.0, 1.0 - step / c.instance_noise_steps)
        return image + deviation * torch.randn_like(image)

    def latent(self, n: int) -> torch.Tensor:
        """Noise (n, z_dim), distributed as the option ``latent`` says."""
        z = super().latent(n)
        if self.config.latent == "sphere":
            return F.normalize(z, dim=1) * self.config.z_dim**0.5
        return z.uniform_(-1, 1) if self.config.latent == "uniform" else z

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.generator(self.noise(batch))

    @property
    def _loss(self) -> losses.AdversarialLoss:
        return losses.LOSSES[self.config.loss]

    def _judge(
        self, real: torch.Tensor, fake: torch.Tensor, given: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of both; in one pass batch norm sees real and fake images mixed, in two it sees each alone."""
        if self.config.separate_batches:
            return self.discriminator(real, *given), self.discriminator(fake, *given)
        twice = [torch.cat([condition, condition]) for condition in given]
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake]), *twice).split([len(real), len(fake)])
        return real_logits, fake_logits

    def _penalties(self, real: torch.Tensor, fake: torch.Tensor, given: tuple[torch.Tensor, ...], step: int) -> Losses:
        c = self.config
        if c.regularizer == "none" or (c.regularizer_every > 1 and step % c.regularizer_every):
            return {}
        weight = c.regularizer_weight * c.regularizer_every
        if c.regularizer == "gradient_penalty":
            return {"gradient_penalty": gradient_penalty(self.discriminator, real, fake, weight, critic_args=given)}
        if c.regularizer == "dragan":
            return {"dragan": losses.dragan_penalty(self.discriminator, real, weight, critic_args=given)}
        penalties = {"r1": (losses.r1_penalty, real), "r2": (losses.r2_penalty, fake)}
        return {
            name: penalty(self.discriminator, image, weight, critic_args=given)
            for name, (penalty, image) in penalties.items()
            if name in c.regularizer
        }

    def _judgement(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> Losses:
        """For the records: probabilities, where the loss makes logits mean that, else the logits."""
        if self.config.loss in ("minimax", "non_saturating"):
            return {"p_real": real_logits.sigmoid().mean(), "p_fake": fake_logits.sigmoid().mean()}
        return {"logit_real": real_logits.mean(), "logit_fake": fake_logits.mean()}
