"""Adversarial losses as pure functions of logits.

``real_logits`` and ``fake_logits`` are the discriminator's outputs before any sigmoid, of any shape (one logit an
image, or a map of them for a patch discriminator); each function returns the mean over all of them as a 0-dim
tensor. Nothing here steps an optimiser, detaches, or knows a network. Probabilities are never formed: with s(x) =
log(1 + e^x), log D = -s(-logit) and log(1 - D) = -s(logit) are exact and finite for every finite logit.

Half-precision logits are reduced in float32. All functions are twice differentiable.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = [
    "minimax_discriminator",
    "minimax_generator",
    "non_saturating_discriminator",
    "non_saturating_generator",
    "wasserstein_critic",
    "wasserstein_generator",
]


def minimax_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: the discriminator's side of the game, as a quantity to drive down.

    Equals 2 log 2 where D is 1/2 everywhere. Goodfellow et al. 2014, equation 1.
    """
    return F.softplus(-_wide("real_logits", real_logits)).mean() + F.softplus(_wide("fake_logits", fake_logits)).mean()


def minimax_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """E[log(1 - D(G(z)))]: the generator's side of the same game; its gradient fades where D rejects every fake.

    Goodfellow et al. 2014, equation 1.
    """
    return -F.softplus(_wide("fake_logits", fake_logits)).mean()


def non_saturating_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The same as ``minimax_discriminator``: only the generator's loss differs between the two games.

    Goodfellow et al. 2014, section 3.
    """
    return minimax_discriminator(real_logits, fake_logits)


def non_saturating_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[log D(G(z))]: same fixed point as the minimax loss, strong gradients where D rejects every fake.

    Goodfellow et al. 2014, section 3.
    """
    return F.softplus(-_wide("fake_logits", fake_logits)).mean()


def wasserstein_critic(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """E[f(G(z))] - E[f(x)]: its negative estimates the Wasserstein-1 distance if f is 1-Lipschitz.

    Arjovsky et al. 2017, equation 2 and algorithm 1.
    """
    return _wide("fake_logits", fake_logits).mean() - _wide("real_logits", real_logits).mean()


def wasserstein_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[f(G(z))]. Arjovsky et al. 2017, algorithm 1."""
    return -_wide("fake_logits", fake_logits).mean()


def _wide(name: str, logits: torch.Tensor) -> torch.Tensor:
    """``logits`` in at least float32, after a look at what they are."""
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TypeError(f"{name} takes a floating-point tensor, got {got}")
    if logits.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(logits.shape)}): a mean over no logits has no value")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
