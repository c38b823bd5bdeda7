"""Spearman's rank correlation, by which recipes judge whether two things go together."""

from __future__ import annotations

import torch

__all__ = ["rank_correlations"]


def rank_correlations(columns: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Spearman's (K,) of each column of ``columns`` (N, K) with ``values`` (N,); no value comes twice."""
    ranks = torch.cat([columns.double(), values[:, None].double()], dim=1).argsort(0).argsort(0)
    return torch.corrcoef(ranks.T.double())[-1, :-1]
