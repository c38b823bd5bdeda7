"""Inception Score: how sure a classifier is of every sample, and how evenly the samples spread over its classes."""

from __future__ import annotations

import torch

__all__ = ["inception_score"]


def inception_score(logits: torch.Tensor, *, splits: int = 10) -> tuple[float, float]:
    """exp(mean of KL(p(y|x) || p(y))), mean and standard deviation over ``splits`` parts (Salimans et al. 2016).

    1 where every sample looks alike to the classifier, the number of classes where each is certain and all are hit
    equally. Few samples a part bias it downwards.

    Args:
        logits: (N, classes), N at least ``splits``, in random order.
        splits: parts of consecutive samples, equal but for one.
    """
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(
            f"an Inception Score of {splits} splits takes logits (N >= {splits}, classes), got {tuple(logits.shape)}"
        )
    p = logits.detach().to("cpu", torch.float64).softmax(1)
    # the mean divergence from the marginal is the marginal's entropy less the mean entropy
    parts = p.tensor_split(splits)
    information = torch.stack([_entropy(part.mean(0)) - _entropy(part).mean() for part in parts])
    scores = information.exp()
    return scores.mean().item(), scores.std(correction=0).item()


def _entropy(p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(p).sum(-1)
