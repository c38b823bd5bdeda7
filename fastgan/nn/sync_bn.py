"""BatchNorm over the joint batch of several processes, as the two stages of fastgan.ops with an exchange in between.

    forward     1. count, mean, var  of this process's z                            bn_stats
                2. the same of all of them: one gather of (count, mean, m2), merged about the joint mean
                3. y = act(gamma * (z - mean) * invstd + beta)                       bn_act
    backward    4. sum_g, sum_g_xhat  of this process                                bn_act_backward_reduce
                5. their sums over all processes: one all-reduce
                6. grad_z, from their joint means                                    bn_act_backward_elemt

Merged as Chan, Golub, LeVeque (1983) do: m2 = sum of m2_i + n_i (mean_i - mean)^2, never E[z^2] - mean^2. The gradients
of gamma and beta stay those of this process's loss, as all other gradients do that are averaged afterwards.

``synchronise`` changes the classes of a model's BatchNorms; they exchange only inside ``exchanging``, in train mode,
and are torch's own anywhere else: what one process does alone (samples, metrics) waits for no other. The BatchNorms of
fused chains can do it without: the convolution then runs by itself, and norm and activation are the stages above.

Differentiable once: a gradient penalty through a synchronised BatchNorm raises an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from fastgan.ops.bn_act import bn_act, bn_act_backward_elemt, bn_act_backward_reduce, bn_stats, statistics_dtype

__all__ = [
    "Exchange",
    "SynchronisedNorm",
    "exchange_for",
    "exchanging",
    "is_exchanging",
    "norm_act",
    "synchronise",
    "weight_of_batch",
]

Tensor = torch.Tensor


class Exchange(Protocol):
    """What the processes of a run say to each other here; every one calls the same in the same order."""

    def stacked(self, vector: Tensor) -> Tensor:
        """(k,) of every process as (processes, k)."""

    def summed(self, vector: Tensor) -> Tensor:
        """The sum of every process's vector."""


_exchange: Exchange | None = None


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """Inside, all processes run the same forward and backward passes, each on its part of one batch."""
    global _exchange
    before, _exchange = _exchange, exchange
    try:
        yield
    finally:
        _exchange = before


def is_exchanging() -> bool:
    return _exchange is not None


def exchange_for(bn: nn.modules.batchnorm._BatchNorm) -> Exchange | None:
    """Whom to ask for the joint statistics in a forward pass of ``bn`` made now; None: torch's BatchNorm is due."""
    return _exchange if bn.training and getattr(bn, "_synchronised", False) else None


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, gamma, beta, eps, activation, slope, exchange):
        mean, var, count = _joint_statistics(z, exchange)
        invstd = torch.rsqrt(var + eps)
        y = bn_act(z, mean, invstd, gamma, beta, activation, slope)
        y_kept = y if activation == "tanh" else z  # what is not read may be changed in place by what follows
        ctx.save_for_backward(y_kept, z, mean, invstd, gamma, beta, count)
        ctx.activation, ctx.slope, ctx.exchange = activation, slope, exchange
        ctx.mark_non_differentiable(mean, var, count)
        ctx.set_materialize_grads(False)
        return y, mean, var, count

    @staticmethod
    def backward(ctx, grad_y, *_):
        if grad_y is None:
            return (None,) * 7
        if torch.is_grad_enabled():
            raise RuntimeError(
                "synchronised BatchNorm is differentiable once, and a gradient penalty differentiates it twice: take a "
                "critic without batch norm, or Trainer(sync_bn=False), train --no-sync-bn"
            )
        y, z, mean, invstd, gamma, beta, count = ctx.saved_tensors
        act = (ctx.activation, ctx.slope)
        sum_g, sum_g_xhat = bn_act_backward_reduce(grad_y, y, z, mean, invstd, gamma, beta, *act)
        mean_g, mean_g_xhat = (ctx.exchange.summed(torch.cat([sum_g, sum_g_xhat])) / count).chunk(2)
        grad_z = bn_act_backward_elemt(grad_y, y, z, mean, invstd, gamma, beta, mean_g, mean_g_xhat, *act)
        if gamma is None:
            return grad_z, *[None] * 6
        return grad_z, sum_g_xhat.to(gamma.dtype), sum_g.to(gamma.dtype), *[None] * 4


def _joint_statistics(z: Tensor, exchange: Exchange) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, biased var, count) over all processes' z (N, C, *); count is a tensor () of the statistics' dtype."""
    channels, dtype = z.shape[1], statistics_dtype(z)
    count = z.numel() // channels
    mean, var = bn_stats(z) if count else torch.zeros(2, channels, dtype=dtype, device=z.device)
    own = torch.cat([torch.full((1,), count, dtype=dtype, device=z.device), mean, var * count])
    every = exchange.stacked(own).double()  # C numbers a process: the merge adds no rounding of its own
    counts, means, m2 = every[:, :1], every[:, 1 : channels + 1], every[:, channels + 1 :]
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    m2 = (m2 + counts * (means - mean).square()).sum(0)
    return mean.to(dtype), (m2 / total).to(dtype), total.to(dtype)


def norm_act(
    bn: nn.modules.batchnorm._BatchNorm, z: Tensor, exchange: Exchange, activation: str = "none", slope: float = 0.0
) -> Tensor:
    """act(bn(z)) over the joint batch, running statistics updated as torch.nn.BatchNorm updates them."""
    y, mean, var, count = _NormAct.apply(z, bn.weight, bn.bias, bn.eps, activation, slope, exchange)
    if bn.track_running_stats:
        unbiased = var * (count / (count - 1).clamp(min=1))
        factor = weight_of_batch(bn)
        for running, value in ((bn.running_mean, mean), (bn.running_var, unbiased)):
            if running is not None:
                running.data.lerp_(value.to(running.dtype), factor)  # .data: as in FusedBatchNorm2d
    return y


def weight_of_batch(bn: nn.modules.batchnorm._BatchNorm) -> float:
    """Count one batch; how far the running statistics move towards its own. The rules of torch.nn's BatchNorm: momentum
    None is a cumulative average, and without a counter nothing moves."""
    if bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    if bn.momentum is not None:
        return bn.momentum
    return 0.0 if bn.num_batches_tracked is None else 1.0 / float(bn.num_batches_tracked)


class SynchronisedNorm:
    """Forward of a BatchNorm that may be synchronised; mixed in before torch's class."""

    def forward(self, input: Tensor) -> Tensor:
        exchange = exchange_for(self)
        if exchange is None:
            return super().forward(input)
        self._check_input_dim(input)
        return norm_act(self, input, exchange)


class SynchronisedBatchNorm1d(SynchronisedNorm, nn.BatchNorm1d):
    pass


class SynchronisedBatchNorm2d(SynchronisedNorm, nn.BatchNorm2d):
    pass


class SynchronisedBatchNorm3d(SynchronisedNorm, nn.BatchNorm3d):
    pass


_SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    nn.BatchNorm3d: SynchronisedBatchNorm3d,
}


def synchronise(model: nn.Module) -> None:
    """Let ``model``'s BatchNorms normalise over the joint batch inside ``exchanging``; in place, and after ``fuse``."""
    for module in model.modules():
        module.__class__ = _SYNCHRONISED.get(type(module), type(module))
        if isinstance(module, SynchronisedNorm):
            module._synchronised = True
