"""The contract between a GAN and the trainer: Architecture, Stage, Phase.

An architecture is an ``nn.Module`` that holds plain torch networks and says, as data, how they are trained. The trainer
walks stages and phases and knows no GAN; an architecture steps no optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from fastgan.architectures._config import check_options, option
from fastgan.data.batch import Batch
from fastgan.ops import _noise

__all__ = ["Architecture", "Phase", "Preset", "Stage", "option"]

Losses = dict[str, torch.Tensor]


@dataclass
class Phase:
    """One kind of update. The trainer does ``zero_grad, loss, sum, backward, step, after``, ``repeat`` times a step.

    While a phase runs, the trainer has set ``requires_grad`` False on every parameter of the architecture that is not
    among ``parameters``: a generator's update then spends nothing on the discriminator's weight gradients.
    """

    name: str
    parameters: Iterable[nn.Parameter]
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    # loss(batch, step): scalar terms by name. Terms that require grad are summed and driven down; the others are only
    # logged (probabilities, norms, distances). No `.item()` here: the trainer reads values once an interval. With
    # `Trainer(cuda_graph=True)` a loss that reads `step`, or waits for the device, runs without a graph.
    loss: Callable[[Batch, int], Losses]
    # updates a step: WGAN's n_critic, or a function of the step for its warm-up (100 critic updates at first)
    repeat: int | Callable[[int], int] = 1
    # True: every repetition draws its own batch; False: uses the batch of the phase before (a generator that needs no
    # data, InfoGAN's Q). The first phase of a step has none before it and always draws.
    fresh_batch: bool = True
    # after(step): what follows the optimiser's step under no_grad: clipping, history buffers, running averages
    after: Callable[[int], None] | None = None
    # schedule(step): optimiser settings of this step, {"lr": ..., "momentum": ...}, written into every parameter group
    # before the update. A pure function of the step, so that a resumed run needs no scheduler state.
    schedule: Callable[[int], dict[str, float]] | None = None

    def __post_init__(self) -> None:
        self.parameters = list(self.parameters)
        if not self.parameters:
            raise ValueError(f"phase {self.name!r} has no parameters to train")

    def repeats(self, step: int) -> int:
        return self.repeat(step) if callable(self.repeat) else self.repeat


@dataclass
class Stage:
    """A set of phases trained together; the next stage begins after ``steps`` (None: until the run ends)."""

    name: str
    phases: list[Phase]
    steps: int | None = None


@dataclass(frozen=True)
class Preset:
    """A training run of minutes on two CPU cores: the paper's settings, but for what that asks for.

    ``fastgan train NAME --preset PRESET`` runs it, the recipes train by it.
    """

    data: str  # what fastgan.data.load takes
    steps: int
    batch_size: int | None = None  # None: the paper's
    model: Mapping[str, Any] = field(default_factory=dict)  # fields of Config that differ from its defaults
    size: int | None = None  # at most so many images of the data


class Architecture(nn.Module):
    """Base of every GAN: networks, how they are trained, and one inference call.

    Subclasses own a frozen dataclass ``Config``; ``fastgan.create(name, **options)`` fills it. Everything a run must
    remember (history buffers, running averages, the stage reached) is a module buffer, so that ``state_dict`` holds
    all of it.
    """

    @dataclass(frozen=True)
    class Config:
        """Options common to all; a subclass adds its own with ``option`` and calls ``super().__post_init__()``."""

        image_size: int = option(64, "height and width of the images in pixels", minimum=1)
        channels: int = option(3, "channels of the images: 1 grey, 3 colour, 4 with transparency", minimum=1)

        def __post_init__(self) -> None:
            check_options(self)

    name: ClassVar[str] = ""  # set by fastgan.register
    needs: ClassVar[tuple[str, ...]] = ("image",)  # Batch fields that training reads
    # Batch fields that generate() or predict() reads beside the latent; empty: images come from noise alone
    conditions: ClassVar[tuple[str, ...]] = ()
    # submodules that generate() uses: the trainer averages these; empty for a model that only predicts (VAT)
    generators: ClassVar[tuple[str, ...]] = ("generator",)
    # submodules that tell real pictures from generated ones, the pictures being their first argument: what
    # Trainer(augment=...) augments for; one without bound on the sign of its output is called critic
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator",)
    defaults: ClassVar[dict[str, Any]] = {"batch_size": 64}  # the paper's values of Trainer options
    # small runs by name: "scenes", and one or more called as the real data they train on
    presets: ClassVar[Mapping[str, Preset]] = {}

    def __init__(self, config: Architecture.Config) -> None:
        super().__init__()
        self.config = config

    # -- training ------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        """The phases of a one-stage GAN, in the order in which they run."""
        raise NotImplementedError(f"{type(self).__name__} defines neither phases() nor stages()")

    def stages(self) -> list[Stage]:
        """Successive sets of phases, asked for once, when training begins or resumes; all but the last end by steps."""
        return [Stage("train", self.phases())]

    def real(self, batch: Batch) -> torch.Tensor:
        """``batch.image`` after a look at its shape, so that a wrong one is named here and not inside a convolution."""
        image, size = batch.image, self.config.image_size
        if image is None:
            raise ValueError(f"{type(self).__name__} trains on images: the batch has no image")
        if image.shape[1:] != (self.config.channels, size, size):
            raise ValueError(
                f"batch.image takes shape (N, {self.config.channels}, {size}, {size}) as configured by channels and "
                f"image_size, got {tuple(image.shape)}"
            )
        return image

    # -- inference -----------------------------------------------------------------------------------------------
    def latent(self, n: int) -> torch.Tensor:
        """Draw noise (n, z_dim) from torch's global generator, on this model's device: N(0, 1) unless overridden."""
        z_dim = getattr(self.config, "z_dim", None)
        if z_dim is None:
            raise NotImplementedError(f"{type(self).__name__} takes no noise (its Config has no z_dim)")
        like = next(self.parameters())
        return _noise.randn(n, z_dim, device=like.device, dtype=like.dtype)

    def noise(self, batch: Batch) -> torch.Tensor:
        """``batch.latent`` where present, else fresh noise for every item of the batch. Shape (N, z_dim)."""
        if batch.latent is None:
            return self.latent(len(batch))
        if batch.latent.shape[1:] != (self.config.z_dim,):
            raise ValueError(f"batch.latent takes shape (N, {self.config.z_dim}), got {tuple(batch.latent.shape)}")
        return batch.latent

    def generate(self, batch: Batch) -> torch.Tensor:
        """Images (N, C, H, W), or videos (N, T, C, H, W), in [-1, 1] for a batch with the fields in ``conditions``.

        ``batch.latent`` is used where present and drawn where absent. Runs in the module's present train / eval mode.
        """
        raise NotImplementedError(f"{type(self).__name__} does not generate images")

    def predict(self, batch: Batch) -> torch.Tensor:
        """Class logits (N, num_classes) of ``batch``, for models that classify (Improved GAN, VAT)."""
        raise NotImplementedError(f"{type(self).__name__} does not classify")

    def sample(self, n: int) -> torch.Tensor:
        """``n`` images from noise alone, in eval mode and without gradients."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"n takes a whole number of samples, got {n!r}")
        if self.conditions:
            fields = " and ".join(self.conditions)
            raise TypeError(
                f"{type(self).__name__} makes no images from noise alone: give generate() a Batch with {fields}"
            )
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self.generate(Batch(latent=self.latent(n)))
        finally:
            self.train(was_training)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device
