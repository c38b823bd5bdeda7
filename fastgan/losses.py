"""Adversarial losses as pure functions of logits, by name in ``LOSSES``; the penalties on D's input gradient; and the
losses of classifiers: semi-supervised, adversarial, virtual adversarial.

``real_logits`` and ``fake_logits`` are the discriminator's outputs before any sigmoid, of any shape (one logit an
image, or a map of them for a patch discriminator); each function returns the mean over all of them as a 0-dim
tensor. Nothing here steps an optimiser or detaches. Probabilities are never formed: with s(x) = log(1 + e^x),
log D = -s(-logit) and log(1 - D) = -s(logit) are exact and finite for every finite logit.

Half-precision logits are reduced in float32. All losses are twice differentiable.

Losses that aim at labels take two of the tips that training D is known for, both off by default:
    label_smoothing   the real images' label is so much nearer to the fake ones'; one-sided, because a smoothed fake
                      label would reward images where the data has none (Salimans et al. 2016, section 3.4)
    label_flip        share of the images, drawn anew at every call, whose label D is told wrongly (Chintala et al.
                      2016, "How to train a GAN?", tip 6)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fastgan.nn.layers import kept_statistics
from fastgan.ops.gradient_penalty import gradient_penalty

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "categorical_information",
    "class_evidence",
    "conditional_entropy",
    "dragan_penalty",
    "fast_gradient",
    "fast_gradient_sign",
    "feature_matching",
    "hinge_discriminator",
    "hinge_generator",
    "labelled_cross_entropy",
    "least_squares_discriminator",
    "least_squares_generator",
    "minimax_discriminator",
    "minimax_generator",
    "non_saturating_discriminator",
    "non_saturating_generator",
    "r1_penalty",
    "r2_penalty",
    "relativistic_average_discriminator",
    "relativistic_average_generator",
    "relativistic_discriminator",
    "relativistic_generator",
    "semi_supervised_discriminator",
    "uniform_information",
    "virtual_adversarial_loss",
    "wasserstein_critic",
    "wasserstein_generator",
]


# -- losses ------------------------------------------------------------------------------------------------------------


def minimax_discriminator(
    real_logits: torch.Tensor, fake_logits: torch.Tensor, label_smoothing: float = 0.0, label_flip: float = 0.0
) -> torch.Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: the discriminator's side of the game, as a quantity to drive down.

    Equals 2 log 2 where D is 1/2 everywhere. With a label t the terms are -t log D - (1 - t) log(1 - D).

    Goodfellow et al. 2014, equation 1.
    """
    real, fake = _wide("real_logits", real_logits), _wide("fake_logits", fake_logits)
    if not (label_smoothing or label_flip):
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    targets = _labels(real, fake, 0.0, 1.0, label_smoothing, label_flip)
    return sum(
        (label * F.softplus(-logits) + (1 - label) * F.softplus(logits)).mean()
        for logits, label in zip((real, fake), targets, strict=True)
    )


def minimax_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """E[log(1 - D(G(z)))]: the generator's side of the same game; its gradient fades where D rejects every fake.

    Goodfellow et al. 2014, equation 1.
    """
    return -F.softplus(_wide("fake_logits", fake_logits)).mean()


def non_saturating_discriminator(
    real_logits: torch.Tensor, fake_logits: torch.Tensor, label_smoothing: float = 0.0, label_flip: float = 0.0
) -> torch.Tensor:
    """The same as ``minimax_discriminator``: only the generator's loss differs between the two games.

    Goodfellow et al. 2014, section 3.
    """
    return minimax_discriminator(real_logits, fake_logits, label_smoothing, label_flip)


def non_saturating_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[log D(G(z))]: same fixed point as the minimax loss, strong gradients where D rejects every fake.

    Goodfellow et al. 2014, section 3.
    """
    return F.softplus(-_wide("fake_logits", fake_logits)).mean()


def least_squares_discriminator(
    real_logits: torch.Tensor,
    fake_logits: torch.Tensor,
    label_smoothing: float = 0.0,
    label_flip: float = 0.0,
    a: float = 0.0,
    b: float = 1.0,
) -> torch.Tensor:
    """1/2 E[(D(x) - b)^2] + 1/2 E[(D(G(z)) - a)^2]: ``a`` is the label of fake images, ``b`` that of real ones.

    Mao et al. 2017, "Least Squares Generative Adversarial Networks", equation 2; a, b, c = 0, 1, 1 is its equation 9,
    and -1, 1, 0 its equation 8, which minimises the Pearson chi^2 divergence.
    """
    real, fake = _wide("real_logits", real_logits), _wide("fake_logits", fake_logits)
    real_label, fake_label = _labels(real, fake, a, b, label_smoothing, label_flip)
    return 0.5 * (real - real_label).square().mean() + 0.5 * (fake - fake_label).square().mean()


def least_squares_generator(fake_logits: torch.Tensor, c: float = 1.0) -> torch.Tensor:
    """1/2 E[(D(G(z)) - c)^2]: ``c`` is what G wants D to say of its images. Mao et al. 2017, equation 2."""
    return 0.5 * (_wide("fake_logits", fake_logits) - c).square().mean()


def wasserstein_critic(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """E[f(G(z))] - E[f(x)]: its negative estimates the Wasserstein-1 distance if f is 1-Lipschitz.

    Arjovsky et al. 2017, equation 2 and algorithm 1.
    """
    return _wide("fake_logits", fake_logits).mean() - _wide("real_logits", real_logits).mean()


def wasserstein_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[f(G(z))]. Arjovsky et al. 2017, algorithm 1."""
    return -_wide("fake_logits", fake_logits).mean()


def hinge_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]: no gradient from images beyond the margin.

    Lim & Ye 2017, "Geometric GAN"; Miyato et al. 2018, "Spectral Normalization for GANs", equation 16.
    """
    return F.relu(1 - _wide("real_logits", real_logits)).mean() + F.relu(1 + _wide("fake_logits", fake_logits)).mean()


def hinge_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[D(G(z))]. Lim & Ye 2017; Miyato et al. 2018, equation 17."""
    return -_wide("fake_logits", fake_logits).mean()


def relativistic_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[log sigmoid(C(x) - C(G(z)))]: is this real image more real than that fake one? Logits of one shape.

    Jolicoeur-Martineau 2018, "The relativistic discriminator" (RSGAN).
    """
    real, fake = _pairs(real_logits, fake_logits)
    return F.softplus(fake - real).mean()


def relativistic_generator(fake_logits: torch.Tensor, real_logits: torch.Tensor) -> torch.Tensor:
    """-E[log sigmoid(C(G(z)) - C(x))]. Jolicoeur-Martineau 2018 (RSGAN)."""
    real, fake = _pairs(real_logits, fake_logits)
    return F.softplus(real - fake).mean()


def relativistic_average_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """-E[log sigmoid(C(x) - E C(G(z)))] - E[log(1 - sigmoid(C(G(z)) - E C(x)))]: each against the others' mean.

    Jolicoeur-Martineau 2018 (RaSGAN).
    """
    real, fake = _wide("real_logits", real_logits), _wide("fake_logits", fake_logits)
    return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()


def relativistic_average_generator(fake_logits: torch.Tensor, real_logits: torch.Tensor) -> torch.Tensor:
    """The same with real and fake exchanged. Jolicoeur-Martineau 2018 (RaSGAN)."""
    real, fake = _wide("real_logits", real_logits), _wide("fake_logits", fake_logits)
    return F.softplus(real.mean() - fake).mean() + F.softplus(real - fake.mean()).mean()


class AdversarialLoss(NamedTuple):
    """The two sides of a game, as architectures that take ``loss="hinge"`` look them up."""

    discriminator: Callable[..., torch.Tensor]  # (real_logits, fake_logits)
    generator: Callable[..., torch.Tensor]  # (fake_logits), or where ``relativistic`` (fake_logits, real_logits)
    labels: bool = False  # whether the discriminator's takes label_smoothing and label_flip
    relativistic: bool = False


LOSSES = {
    "minimax": AdversarialLoss(minimax_discriminator, minimax_generator, labels=True),
    "non_saturating": AdversarialLoss(non_saturating_discriminator, non_saturating_generator, labels=True),
    "least_squares": AdversarialLoss(least_squares_discriminator, least_squares_generator, labels=True),
    "wasserstein": AdversarialLoss(wasserstein_critic, wasserstein_generator),
    "hinge": AdversarialLoss(hinge_discriminator, hinge_generator),
    "relativistic": AdversarialLoss(relativistic_discriminator, relativistic_generator, relativistic=True),
    "relativistic_average": AdversarialLoss(
        relativistic_average_discriminator, relativistic_average_generator, relativistic=True
    ),
}


# -- penalties ---------------------------------------------------------------------------------------------------------


def r1_penalty(
    discriminator: nn.Module | Callable[..., torch.Tensor],
    real: torch.Tensor,
    weight: float = 10.0,
    critic_args: Sequence[object] = (),
    method: str = "auto",
) -> torch.Tensor:
    """weight / 2 E[||grad D(x)||^2] at real images (N, ...): D may not slope where the data is. A 0-dim tensor.

    Everything else as in ``fastgan.ops.gradient_penalty``, whose target 0 it is: analytic where that is exact, float32
    whatever autocast says, differentiable with respect to D's parameters. Batch norm in D couples the images of a
    batch, so that the gradient is then that of the batch's sum of logits.

    Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", equation 9; weight is its gamma.
    """
    everywhere_real = torch.ones(len(real), device=real.device)
    return gradient_penalty(
        discriminator, real, real, 0.5 * weight, 0.0, critic_args=critic_args, epsilon=everywhere_real, method=method
    )


def r2_penalty(
    discriminator: nn.Module | Callable[..., torch.Tensor],
    fake: torch.Tensor,
    weight: float = 10.0,
    critic_args: Sequence[object] = (),
    method: str = "auto",
) -> torch.Tensor:
    """``r1_penalty`` at generated images (N, ...) instead of real ones. Mescheder et al. 2018, equation 10."""
    return r1_penalty(discriminator, fake, weight, critic_args, method)


def dragan_penalty(
    discriminator: nn.Module | Callable[..., torch.Tensor],
    real: torch.Tensor,
    weight: float = 10.0,
    target: float = 1.0,
    scale: float = 0.5,
    critic_args: Sequence[object] = (),
    method: str = "auto",
) -> torch.Tensor:
    """weight E[(||grad D(x + d)|| - target)^2] around real images (N, ...); the rest as in ``gradient_penalty``.

    d = u U[0, scale] std(real): the paper leaves the noise open; this is the usual one, every pixel drawn by itself and
    one u from U[0, 1] for each image. std is that of the whole batch.

    Kodali et al. 2017, "On Convergence and Stability of GANs".
    """
    real = real.detach()
    perturbed = real + scale * real.std() * torch.rand_like(real)
    return gradient_penalty(discriminator, real, perturbed, weight, target, critic_args=critic_args, method=method)


# -- classes, with labels for a few ------------------------------------------------------------------------------------


def labelled_cross_entropy(class_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-E[log p(label | x)] over the samples that have a label, 0 where none has one.

    class_logits: (N, K); labels: (N,) int64 from 0 to K - 1, or -1: unlabelled.
    """
    total = F.cross_entropy(_wide("class_logits", class_logits), labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def class_evidence(class_logits: torch.Tensor) -> torch.Tensor:
    """log Z (N,), with Z = sum_k exp(l_k) of the class logits (N, K): the logit of D(x) = Z / (Z + 1).

    A classifier of K classes is a discriminator by this: it is one of K + 1 classes whose last, "generated", has the
    logit 0, which takes nothing from it, since softmax is the same for logits that are all moved by one amount.

    Salimans et al. 2016, "Improved Techniques for Training GANs", section 5.
    """
    return _wide("class_logits", class_logits).logsumexp(1)


def semi_supervised_discriminator(
    real_class_logits: torch.Tensor, fake_class_logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of a K + 1 class discriminator's loss, each 0-dim: supervised, and unsupervised.

        supervised     -E[log p(label | x, real)]                           over labelled x
        unsupervised   -1/2 E[log D(x)] - 1/2 E[log(1 - D(G(z)))]           over unlabelled x, D as in class_evidence

    Where every real sample has a label, the unsupervised part is over all of them.

    real_class_logits: (N, K); fake_class_logits: (M, K); labels: (N,) int64, -1: unlabelled. label_smoothing: how much
    nearer to the fake ones' the label "real" is.

    Salimans et al. 2016, section 5; the halves are those of the authors' code.
    """
    evidence, fake_evidence = class_evidence(real_class_logits), class_evidence(fake_class_logits)
    real = F.softplus(-evidence) + label_smoothing * evidence  # -(1 - s) log D - s log(1 - D)
    unsupervised = 0.5 * _mean(real, _unlabelled(labels)) + 0.5 * F.softplus(fake_evidence).mean()
    return labelled_cross_entropy(real_class_logits, labels), unsupervised


def feature_matching(
    real_features: torch.Tensor, fake_features: torch.Tensor, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over F of (E f(x) - E f(G(z)))^2: a generator's loss that asks for the data's statistics.

    real_features: (N, F), which collect no gradient; fake_features: (M, F); labels: (N,), -1: unlabelled. With labels,
    the expectation over x is that of semi_supervised_discriminator's unsupervised part.

    Salimans et al. 2016, section 3.1, where it is the sum over F; the mean as in the authors' code.
    """
    real, fake = _wide("real_features", real_features).detach(), _wide("fake_features", fake_features)
    expected = real.mean(0) if labels is None else _mean(real, _unlabelled(labels))
    return (expected - fake.mean(0)).square().mean()


def conditional_entropy(class_logits: torch.Tensor) -> torch.Tensor:
    """-E[sum_k p(k | x) log p(k | x)] of class logits (N, K): driven down, it asks for a decision about every sample.

    Grandvalet & Bengio 2005, "Semi-supervised Learning by Entropy Minimization".
    """
    log_p = _wide("class_logits", class_logits).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


# -- classifiers under attack ------------------------------------------------------------------------------------------

Classifier = nn.Module | Callable[[torch.Tensor], torch.Tensor]  # (N, ...) -> class logits (N, K)


def fast_gradient_sign(
    classifier: Classifier, image: torch.Tensor, labels: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Images (N, ...), each pixel moved by ``epsilon`` to where the labels' cross-entropy grows.

    x + epsilon sign(grad_x -log p(label | x)), kept in [-1, 1], the range of images. ``epsilon`` counts on that range:
    twice as much as on [0, 1]. Unlabelled samples (-1) stay as they are. No gradient flows back. BatchNorm's running
    statistics are kept.

    Goodfellow, Shlens, Szegedy 2015, "Explaining and Harnessing Adversarial Examples", section 4.
    """
    gradient = _loss_gradient(classifier, image, labels)
    return (image.detach() + epsilon * gradient.sign()).clamp(-1, 1)


def fast_gradient(classifier: Classifier, x: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The perturbation epsilon g / |g| of each sample of x (N, ...), g = grad_x -log p(label | x); Euclidean norm.

    0 for unlabelled samples. No gradient flows back. BatchNorm's running statistics are kept.

    Miyato, Dai, Goodfellow 2017, "Adversarial Training Methods for Semi-Supervised Text Classification", section 3.
    """
    return epsilon * _unit(_loss_gradient(classifier, x, labels))


def virtual_adversarial_loss(
    classifier: Classifier,
    x: torch.Tensor,
    epsilon: float,
    xi: float = 1e-3,
    iterations: int = 1,
    class_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """E[KL(p(. | x) || p(. | x + r))]: how far the answer moves with the input, where it moves most. A 0-dim tensor.

    r, of Euclidean norm ``epsilon`` over each sample of x (N, ...), is found by ``iterations`` of the power method from
    a random direction d: d <- grad_r KL(p(. | x) || p(. | x + r)) at r = xi d / |d|. No gradient flows through
    p(. | x) and r. In float32 whatever autocast says. BatchNorm's running statistics are kept; the classifier has to
    answer two calls alike, so that dropout in train mode turns the search into noise.

    class_logits: classifier(x), where it is there already. xi: the paper's 1e-6 leaves the direction to rounding in
    float32.

    Miyato et al. 2018, "Virtual Adversarial Training", section 3 and algorithm 1.
    """
    with torch.autocast(x.device.type, enabled=False), _statistics_kept(classifier):
        if class_logits is None:
            with torch.no_grad():
                class_logits = classifier(x)
        class_logits = class_logits.detach()
        direction = torch.randn_like(x)
        for _ in range(iterations):
            r = (xi * _unit(direction)).requires_grad_()
            (direction,) = torch.autograd.grad(_divergence(class_logits, classifier(x.detach() + r)).sum(), r)
        return _divergence(class_logits, classifier(x + epsilon * _unit(direction))).mean()


def _divergence(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """KL(p || q), (N,), of class logits (N, K)."""
    log_p, log_q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _loss_gradient(classifier: Classifier, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each sample's own cross-entropy with respect to it: a mean over the batch would make it smaller."""
    x = x.detach().requires_grad_()
    with torch.enable_grad(), _statistics_kept(classifier):
        total = F.cross_entropy(classifier(x), labels, ignore_index=-1, reduction="sum")
        (gradient,) = torch.autograd.grad(total, x)
    return gradient


def _unit(direction: torch.Tensor) -> torch.Tensor:
    """Each sample at Euclidean norm 1; 0 stays 0. By the largest entry first: squares of small ones would vanish."""
    rows = direction.flatten(1)
    rows = rows / rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return F.normalize(rows, dim=1).view_as(direction)


def _statistics_kept(classifier: Classifier) -> AbstractContextManager[None]:
    return kept_statistics(classifier) if isinstance(classifier, nn.Module) else nullcontext()


# -- logits and labels -------------------------------------------------------------------------------------------------


def _unlabelled(labels: torch.Tensor) -> torch.Tensor:
    """(N,) weights of sum 1: the unlabelled samples alike, or all alike where every one has a label."""
    without = labels < 0
    chosen = without | ~without.any()
    return chosen / chosen.sum()


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Of values (N, ...) with weights (N,) of sum 1."""
    return torch.tensordot(weights.to(values.dtype), values, 1)


def _labels(
    real: torch.Tensor, fake: torch.Tensor, fake_label: float, real_label: float, smoothing: float, flip: float
) -> tuple[float | torch.Tensor, float | torch.Tensor]:
    """What D is told of every real and every fake image."""
    for name, share in (("label_smoothing", smoothing), ("label_flip", flip)):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} takes a share from 0 to 1, got {share!r}")
    real_label -= smoothing * (real_label - fake_label)
    if not flip:
        return real_label, fake_label
    return _flipped(real, real_label, fake_label, flip), _flipped(fake, fake_label, real_label, flip)


def _flipped(logits: torch.Tensor, label: float, other: float, share: float) -> torch.Tensor:
    """``label`` for every image but a random ``share``, which get ``other``; one draw an image, not a logit."""
    draws = torch.rand(logits.shape[:1] + (1,) * (logits.dim() - 1), device=logits.device)
    return torch.where(draws < share, other, label).to(logits.dtype)


def _pairs(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    real, fake = _wide("real_logits", real_logits), _wide("fake_logits", fake_logits)
    if real.shape != fake.shape:
        raise ValueError(
            f"real_logits has shape {tuple(real.shape)} and fake_logits {tuple(fake.shape)}; pairs take one shape "
            "(the relativistic average takes any)"
        )
    return real, fake


def _wide(name: str, logits: torch.Tensor) -> torch.Tensor:
    """``logits`` in at least float32, after a look at what they are."""
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TypeError(f"{name} takes a floating-point tensor, got {got}")
    if logits.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(logits.shape)}): a mean over no logits has no value")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


# -- information -------------------------------------------------------------------------------------------------------


def categorical_information(logits: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """H(c) + E[log Q(c | x)] in nats, summed over K codes: a lower bound of I(c; x), at most K log C. A 0-dim tensor.

    ``logits``: Q's of (N, K, C) categories for images x; ``code``: what these were made from, (N, K, C) one-hot, every
    category as likely as the others.

    Chen et al. 2016, "InfoGAN", equation 5.
    """
    log_q = (code * F.log_softmax(_wide("logits", logits), dim=2)).sum(2)
    return (math.log(logits.shape[2]) + log_q).sum(1).mean()


def uniform_information(mean: torch.Tensor, log_std: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """H(c) + E[log Q(c | x)] in nats, summed over K codes that are uniform on [-1, 1] (H = log 2 each). A 0-dim tensor.

    ``mean``, ``log_std``: of Q's normal distributions (N, K) for images x; ``code``: what these were made from, (N, K).
    A lower bound of I(c; x), which has itself no upper bound.

    Chen et al. 2016, "InfoGAN", equation 5 and appendix C.
    """
    mean, log_std = _wide("mean", mean), _wide("log_std", log_std)
    log_q = -0.5 * ((code - mean) * torch.exp(-log_std)).square() - log_std - 0.5 * math.log(2 * math.pi)
    return (math.log(2) + log_q).sum(1).mean()
