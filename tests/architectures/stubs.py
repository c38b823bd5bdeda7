"""The hardest users of the contract, as small real models: SimGAN, StackGAN, VAT, CDNA.

They train the losses of their papers with tiny networks at 16 px. What they are here for: several stages, phases that
share a batch, state beyond weights, conditions, no generator, no discriminator, video, and schedules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from fastgan import losses
from fastgan.architectures.base import Architecture, Losses, Phase, Stage, option
from fastgan.data.batch import Batch

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))


class SimGAN(Architecture):
    """Shrivastava et al. 2017: a refiner makes simulator images look real; the discriminator also sees past fakes."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(16, "pixels")
        channels: int = option(1, "channels")
        history: int = option(6, "refined images remembered", minimum=1)
        refiner_warmup: int = option(2, "steps of self-regularisation alone", minimum=1)
        discriminator_warmup: int = option(1, "steps of the discriminator alone", minimum=1)

    needs: ClassVar = ("image", "source")
    conditions: ClassVar = ("source",)
    generators: ClassVar = ("refiner",)

    def __init__(self, config: SimGAN.Config) -> None:
        super().__init__(config)
        c, s = config.channels, config.image_size
        self.refiner = nn.Sequential(nn.Conv2d(c, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, c, 3, 1, 1), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Conv2d(c, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))  # a logit a patch
        self.register_buffer("history", torch.zeros(config.history, c, s, s))
        self.register_buffer("remembered", torch.zeros((), dtype=torch.int64))
        self._refined: torch.Tensor | None = None  # from the loss to `after` of the same update

    def stages(self) -> list[Stage]:
        judge = partial(Phase, "discriminator", list(self.discriminator.parameters()), ADAM, self.judge_loss)
        refine = partial(Phase, "refiner", list(self.refiner.parameters()), ADAM)
        return [
            Stage("refiner warm-up", [refine(self.regularisation)], self.config.refiner_warmup),
            Stage("discriminator warm-up", [judge(after=self.remember)], self.config.discriminator_warmup),
            Stage(
                "adversarial",
                [refine(self.refiner_loss, repeat=2), judge(after=self.remember, fresh_batch=False)],
            ),
        ]

    def regularisation(self, batch: Batch, step: int) -> Losses:
        return {"regularisation": 0.5 * F.l1_loss(self.generate(batch), batch.source)}

    def refiner_loss(self, batch: Batch, step: int) -> Losses:
        refined = self.generate(batch)
        return {
            "adversarial": losses.non_saturating_generator(self.discriminator(refined)),
            "regularisation": 0.5 * F.l1_loss(refined, batch.source),
        }

    def judge_loss(self, batch: Batch, step: int) -> Losses:
        with torch.no_grad():
            self._refined = self.generate(batch)
            # half of the batch comes from the history, once there is one; no value is read back from the device
            n = len(self._refined) // 2
            filled = self.remembered.clamp(max=self.config.history)
            picks = (torch.rand(n, device=self.device) * filled).long()
            past = torch.where(filled > 0, self.history[picks], self._refined[:n])
            fake = torch.cat([past, self._refined[n:]])
        real_logits, fake_logits = self.discriminator(self.real(batch)), self.discriminator(fake)
        return {"adversarial": losses.minimax_discriminator(real_logits, fake_logits)}

    def remember(self, step: int) -> None:
        n = len(self._refined) // 2
        slots = (self.remembered + torch.arange(n, device=self.device)) % self.config.history
        self.history[slots] = self._refined[:n]
        self.remembered += n

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.refiner(batch.source)


class StackGAN(Architecture):
    """Zhang et al. 2017: stage I draws a small image from text and noise, stage II refines it at full size."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(16, "pixels")
        z_dim: int = option(4, "noise")
        text_dim: int = option(5, "text embedding")
        code_dim: int = option(3, "conditioning augmentation")
        stage_one_steps: int = option(2, "steps of stage I")
        kl_weight: float = option(2.0, "weight of the KL term")

    needs: ClassVar = ("image", "text")
    conditions: ClassVar = ("text",)
    generators: ClassVar = ("augment", "sketch", "refine")

    def __init__(self, config: StackGAN.Config) -> None:
        super().__init__(config)
        c, half = config, config.image_size // 2
        self.augment = nn.Linear(c.text_dim, 2 * c.code_dim)
        self.sketch = nn.Sequential(
            nn.Linear(c.code_dim + c.z_dim, c.channels * half * half),
            nn.Unflatten(1, (c.channels, half, half)),
            nn.Tanh(),
        )
        self.refine = nn.Sequential(
            nn.Conv2d(c.channels + c.code_dim, 8, 3, 1, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, c.channels, 4, 2, 1),
            nn.Tanh(),
        )
        self.judge_small = Judge(half, c.channels, c.text_dim)
        self.judge_large = Judge(c.image_size, c.channels, c.text_dim)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))  # the stage last trained: 1 or 2

    def stages(self) -> list[Stage]:
        def phases(number: int, judge: nn.Module, generators: list[nn.Module]) -> list[Phase]:
            drawn = [p for module in generators for p in module.parameters()]
            return [
                Phase(
                    "discriminator",
                    judge.parameters(),
                    ADAM,
                    partial(self.judge_loss, judge, number),
                    schedule=self.schedule,
                ),
                Phase(
                    "generator",
                    drawn,
                    ADAM,
                    partial(self.draw_loss, judge, number),
                    fresh_batch=False,
                    schedule=self.schedule,
                    after=lambda step: self.stage.fill_(number),
                ),
            ]

        return [
            Stage("stage I", phases(1, self.judge_small, [self.augment, self.sketch]), self.config.stage_one_steps),
            Stage("stage II", phases(2, self.judge_large, [self.refine])),
        ]

    def schedule(self, step: int) -> dict[str, float]:
        return {"lr": 2e-4 * 0.5 ** (step // 50)}

    def real_at(self, batch: Batch, number: int) -> torch.Tensor:
        return F.avg_pool2d(self.real(batch), 2) if number == 1 else self.real(batch)

    def draw(self, batch: Batch, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of stage ``number`` and the KL divergence of the conditioning code from N(0, 1)."""
        mean, log_var = self.augment(batch.text).chunk(2, 1)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean()
        code = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        small = self.sketch(torch.cat([code, self.noise(batch)], 1))
        if number == 1:
            return small, kl
        plane = code[:, :, None, None].expand(-1, -1, *small.shape[2:])
        return self.refine(torch.cat([small, plane], 1)), kl

    def judge_loss(self, judge: nn.Module, number: int, batch: Batch, step: int) -> Losses:
        real = self.real_at(batch, number)
        with torch.no_grad():
            fake, _ = self.draw(batch, number)
        wrong_text = batch.text.roll(1, 0)
        wrong = F.softplus(judge(real, wrong_text)).mean()
        return {
            "real": F.softplus(-judge(real, batch.text)).mean(),
            "not_real": 0.5 * (wrong + F.softplus(judge(fake, batch.text)).mean()),
        }

    def draw_loss(self, judge: nn.Module, number: int, batch: Batch, step: int) -> Losses:
        fake, kl = self.draw(batch, number)
        return {
            "adversarial": losses.non_saturating_generator(judge(fake, batch.text)),
            "kl": self.config.kl_weight * kl,
        }

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.draw(batch, int(self.stage))[0]


class Judge(nn.Module):
    """Image and text -> one logit."""

    def __init__(self, size: int, channels: int, text_dim: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(channels, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten())
        self.decide = nn.Linear(8 * (size // 2) ** 2 + text_dim, 1)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.decide(torch.cat([self.look(image), text], 1)).flatten()


class VAT(Architecture):
    """Miyato et al. 2018: a classifier kept smooth where it is most sensitive. No generator; label -1: unlabelled."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(16, "pixels")
        num_classes: int = option(3, "classes")
        xi: float = option(1e-6, "step of the power iteration")
        epsilon: float = option(2.1, "length of the perturbation")

    needs: ClassVar = ("image", "label")
    conditions: ClassVar = ("image",)
    generators: ClassVar = ()

    def __init__(self, config: VAT.Config) -> None:
        super().__init__(config)
        pixels = config.channels * config.image_size**2
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, config.num_classes)
        )

    def phases(self) -> list[Phase]:
        return [
            Phase(
                "classifier",
                self.classifier.parameters(),
                partial(torch.optim.Adam, lr=2e-3),
                self.loss,
                schedule=lambda step: {"lr": 2e-3 * 0.9 ** (step // 500)},
            )
        ]

    def loss(self, batch: Batch, step: int) -> Losses:
        logits = self.classifier(batch.image)
        labelled = (batch.label >= 0).sum().clamp(min=1)
        supervised = F.cross_entropy(logits, batch.label, ignore_index=-1, reduction="sum") / labelled
        return {"supervised": supervised, "smoothness": self.smoothness(batch.image, logits.detach())}

    def smoothness(self, image: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        def divergence(r: torch.Tensor) -> torch.Tensor:
            other = self.classifier(image + r)
            return F.kl_div(other.log_softmax(1), logits.softmax(1), reduction="batchmean")

        def unit(r: torch.Tensor) -> torch.Tensor:
            return F.normalize(r.flatten(1), dim=1).view_as(r)

        r = (self.config.xi * unit(torch.randn_like(image))).requires_grad_()
        (direction,) = torch.autograd.grad(divergence(r), r)
        return divergence(self.config.epsilon * unit(direction))

    def predict(self, batch: Batch) -> torch.Tensor:
        return self.classifier(batch.image)


class CDNA(Architecture):
    """Finn et al. 2016: predicts video from two frames and the actions to come. No noise, no discriminator."""

    CONTEXT = 2
    KERNEL = 5

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        image_size: int = option(16, "pixels")
        masks: int = option(3, "moved copies of the last frame")
        action_dim: int = option(2, "action")
        state_dim: int = option(2, "state")
        sampling_k: float = option(900.0, "speed at which true frames are withdrawn; 0: at once")

    needs: ClassVar = ("image", "action", "state")
    conditions: ClassVar = ("image", "action", "state")
    generators: ClassVar = ("encoder", "memory", "kernels", "masks", "next_state")

    def __init__(self, config: CDNA.Config) -> None:
        super().__init__(config)
        c = config
        self.encoder = nn.Sequential(nn.Conv2d(c.channels, 4, 3, 2, 1), nn.ReLU())
        self.memory = nn.LSTMCell(4 * (c.image_size // 2) ** 2 + c.action_dim + c.state_dim, 16)
        self.kernels = nn.Linear(16, c.masks * self.KERNEL**2)
        self.masks = nn.ConvTranspose2d(4, c.masks + 1, 4, 2, 1)
        self.next_state = nn.Linear(c.action_dim + c.state_dim, c.state_dim)

    def phases(self) -> list[Phase]:
        return [Phase("predictor", self.parameters(), partial(torch.optim.Adam, lr=1e-3), self.loss)]

    def real(self, batch: Batch) -> torch.Tensor:
        frame = (self.config.channels, self.config.image_size, self.config.image_size)
        if batch.image is None or batch.image.dim() != 5 or batch.image.shape[2:] != frame:
            raise ValueError(f"batch.image takes videos (N, T, {', '.join(map(str, frame))})")
        return batch.image

    def loss(self, batch: Batch, step: int) -> Losses:
        k = self.config.sampling_k
        true_share = k / (k + math.exp(min(step / k, 700.0))) if k else 0.0
        frames, states = self.rollout(batch, true_share)
        return {
            "frames": F.mse_loss(frames, self.real(batch)[:, self.CONTEXT :]),
            "states": 1e-4 * F.mse_loss(states, batch.state[:, 1:]),
        }

    def rollout(self, batch: Batch, true_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted frames (N, T - CONTEXT, C, H, W) and states (N, T - 1, S)."""
        video, state, carry = self.real(batch), batch.state[:, 0], None
        frame, frames, states = video[:, 0], [], []
        for t in range(video.shape[1] - 1):
            given = t < self.CONTEXT
            use_true = given or (torch.rand(len(video), 1, 1, 1, device=self.device) < true_share)
            frame = torch.where(torch.as_tensor(use_true, device=self.device), video[:, t], frame)
            known = torch.cat([batch.action[:, t], state], 1)
            features = self.encoder(frame)
            carry = self.memory(torch.cat([features.flatten(1), known], 1), carry)
            frame, state = self.move(frame, features, carry[0]), self.next_state(known)
            frames.append(frame)
            states.append(state)
        return torch.stack(frames[self.CONTEXT - 1 :], 1), torch.stack(states, 1)

    def move(self, frame: torch.Tensor, features: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The next frame: copies of this one, each convolved with its own kernel, composed by masks."""
        (n, c, h, w), m, k = frame.shape, self.config.masks, self.KERNEL
        kernels = self.kernels(hidden).view(n * m, k * k).softmax(1).view(n * m, 1, k, k)
        copies = frame.transpose(0, 1).repeat_interleave(m, 1)  # (C, N * m, H, W): one group a sample and mask
        copies = F.conv2d(copies, kernels, padding=k // 2, groups=n * m).view(c, n, m, h, w).permute(1, 2, 0, 3, 4)
        masks = self.masks(features).softmax(1).unsqueeze(2)  # the last one keeps the frame as it is
        return (torch.cat([copies, frame.unsqueeze(1)], 1) * masks).sum(1)

    def generate(self, batch: Batch) -> torch.Tensor:
        return self.rollout(batch, 0.0)[0]
