"""Layers that torch lacks, and what GANs do to layers from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "AlwaysDropout",
    "GaussianNoise",
    "HistoricalAverage",
    "MinibatchDiscrimination",
    "ReplayBuffer",
    "VirtualBatchNorm",
    "kept_statistics",
    "virtual_batch_norm_",
]


class AlwaysDropout(nn.Dropout):
    """nn.Dropout that drops in eval mode too: a generator's noise (Isola et al. 2017, pix2pix, section 3.2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.p, training=True, inplace=self.inplace)


class ReplayBuffer(nn.Module):
    """Mixes a discriminator's fake batches with fakes of the past, so that a generator cannot go back to old tricks.

    ``buffer(fake)``: (N, ...) in, (N, ...) out, of which the first N // 2 were drawn from the latest ``size`` that the
    buffer keeps. They take the place of as many new ones, which it stores. The very first batch comes back as it is.

    Images and count are buffers in ``state_dict``, and neither waits for the device. No gradient flows through.

    Source: Shrivastava et al., "Learning from Simulated and Unsupervised Images" (2017), section 2.3; the images that
    make way are the oldest here, not random ones.
    """

    def __init__(self, size: int, *shape: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"ReplayBuffer: size is {size}; it takes a whole number of images from 1")
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # stored since the beginning

    @torch.no_grad()
    def forward(self, fake: torch.Tensor) -> torch.Tensor:
        size = len(self.images)
        half = min(len(fake) // 2, size)
        new = fake[:half].to(self.images.dtype)
        kept = self.count.clamp(max=size)
        drawn = self.images[(torch.rand(half, device=fake.device) * kept).long()]
        old = torch.where(self.count > 0, drawn, new)
        slots = (self.count + torch.arange(half, device=fake.device)) % size
        self.images.index_copy_(0, slots, new)
        self.count += half
        return torch.cat([old.to(fake.dtype), fake[half:]])


class GaussianNoise(nn.Module):
    """Adds N(0, deviation^2) in train mode, nothing in eval mode. Any shape."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        return f"deviation={self.deviation}"


class MinibatchDiscrimination(nn.Module):
    """(N, in_features) -> (N, in_features + kernels): each sample's features, then how near the batch's others lie.

    With M = x T of shape (N, kernels, kernel_dim), output b of sample i is sum over j != i of exp(-|M_ib - M_jb|_1): a
    discriminator that sees it tells a batch of one and the same picture. Twice differentiable; memory and time grow by
    N^2 kernels kernel_dim.

    Source: Salimans et al., "Improved Techniques for Training GANs" (2016), section 3.2. Their sum has the sample
    itself as well, which is 1 for all: left out here, as in their code, so that a batch of one gives 0. Their code also
    normalises T and has a bias; a layer that follows has its own.
    """

    def __init__(self, in_features: int, kernels: int = 100, kernel_dim: int = 5) -> None:
        super().__init__()
        self.kernels, self.kernel_dim = kernels, kernel_dim
        self.weight = nn.Parameter(torch.empty(in_features, kernels * kernel_dim))
        nn.init.normal_(self.weight, 0.0, in_features**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        m = (x @ self.weight).unflatten(1, (self.kernels, self.kernel_dim))
        nearness = (m[:, None] - m[None]).abs().sum(3).neg().exp()  # (N, N, kernels)
        return torch.cat([x, nearness.sum(1) - 1], 1)

    def extra_repr(self) -> str:
        return f"in_features={len(self.weight)}, kernels={self.kernels}, kernel_dim={self.kernel_dim}"


class VirtualBatchNorm(nn.Module):
    """Batch norm of (R + N, C, ...) by its first R samples, the reference batch: no sample depends on its neighbours.

    The reference samples are normalised by their own mean and variance over all but C; every other sample by those of
    the reference batch and itself, which weighs 1 / (R + 1). The same in train and in eval mode.
    ``virtual_batch_norm_`` puts it in the place of BatchNorm and keeps the reference batch.

    Args:
        features: C.
        reference: R, at least 2.
        eps: added to the variance.

    Raises:
        ValueError: fewer samples than R.

    Source: Salimans et al., "Improved Techniques for Training GANs" (2016), section 3.5.
    """

    def __init__(self, features: int, reference: int, eps: float = 1e-5) -> None:
        super().__init__()
        if reference < 2:
            raise ValueError(f"reference takes at least 2 samples, got {reference}: one has no variance")
        self.reference, self.eps = reference, eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) < self.reference:
            raise ValueError(
                f"x begins with a reference batch of {self.reference} samples, got {len(x)} samples in all"
            )
        shape = (1, -1) + (1,) * (x.dim() - 2)
        places = tuple(range(2, x.dim()))
        reference, rest = x.split([self.reference, len(x) - self.reference])
        variance, mean = torch.var_mean(reference, (0, *places), correction=0, keepdim=True)
        own_mean = rest.mean(places, keepdim=True) if places else rest
        own_variance = (rest - own_mean).square().mean(places, keepdim=True) if places else torch.zeros_like(rest)
        own = 1 / (self.reference + 1)
        distance = own_mean - mean
        rest_variance = (1 - own) * variance + own * own_variance + own * (1 - own) * distance.square()
        normal = torch.cat(
            [
                (reference - mean) * (variance + self.eps).rsqrt(),
                (rest - mean - own * distance) * (rest_variance + self.eps).rsqrt(),
            ]
        )
        return normal * self.weight.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, reference={self.reference}, eps={self.eps}"


class _WithReference(nn.Module):
    """A network of virtual batch norms, on its inputs behind the reference batch."""

    def __init__(self, network: nn.Module, reference: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("reference", reference)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(torch.cat([self.reference.to(x.dtype), x]))[len(self.reference) :]


def virtual_batch_norm_(network: nn.Module, reference: torch.Tensor) -> nn.Module:
    """``network`` with every BatchNorm exchanged for a VirtualBatchNorm of the same weights, as a module of its inputs.

    ``network`` is changed in place. Costs the forward of the reference batch (R, ...), inputs of ``network`` chosen
    once and kept in ``state_dict``, at every call.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            virtual = VirtualBatchNorm(layer.num_features, len(reference), layer.eps)
            if layer.affine:
                virtual.load_state_dict({"weight": layer.weight, "bias": layer.bias})
            network.set_submodule(name, virtual)
    return _WithReference(network, reference)


class HistoricalAverage(nn.Module):
    """The mean of parameters over all updates so far, and a pull towards it: |theta - 1/t sum_i theta_i|^2.

    ``average(parameters)``: that distance, summed over ``parameters``, as a 0-dim tensor to drive down; 0 before the
    first update. ``average.update(parameters)`` after each of the optimiser's steps. The same parameters in the same
    order every time. Means and count are buffers in ``state_dict``, and neither waits for the device.

    Source: Salimans et al., "Improved Techniques for Training GANs" (2016), section 3.3.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        for i, parameter in enumerate(parameters):
            self.register_buffer(f"mean_{i}", parameter.detach().clone())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def _means(self) -> list[torch.Tensor]:
        return [buffer for name, buffer in self.named_buffers() if name != "count"]

    def forward(self, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        return sum((p - mean).square().sum() for p, mean in zip(parameters, self._means(), strict=True))

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        self.count += 1
        for parameter, mean in zip(parameters, self._means(), strict=True):
            mean += (parameter - mean) / self.count


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in train mode normalises by the batch but leaves its running statistics as they are."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
