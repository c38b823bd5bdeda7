"""GAN on one dimension: Goodfellow et al. 2014, figure 1 - p_data, p_g and D(x) as training proceeds.

The paper's picture in four panels (p_data dotted, p_g solid, D(x) dashed, the best D for this p_g thin), and its
theorem 1 as a number: once p_g = p_data, the best discriminator is p_data / (p_data + p_g) = 1/2 everywhere. D = 1/2
alone proves no match, since a discriminator that lags behind says 1/2 as well: mean and deviation of p_g count too.

D makes two updates (k of the paper's algorithm 1) for one of G: with one, the learning rate of one run in nine had
fallen before p_g had found the mean. With half as many hidden units that run's p_g stayed too narrow all the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastgan import registry
from fastgan.recipes import AtMost, Recipe
from fastgan.training.callbacks import Callback
from fastgan.training.trainer import Trainer

if TYPE_CHECKING:
    from fastgan.architectures.gan import GAN

STEPS = 5000
PANELS = (1, 100, 500, STEPS)  # steps at which a panel is drawn
PRESET = {
    "image_size": 1, "channels": 1, "z_dim": 1, "hidden": 64, "maxout_units": 32, "input_dropout": 0.0, "dropout": 0.0,
    "init_generator": 0.5, "init_discriminator": 0.5, "lr_decay": 1.001, "k": 2,
}  # fmt: skip
MASS_95 = 1.96  # N(0, 1) has 95% of its mass within +-1.96


class Panels(Callback):
    """Records D(x) and samples of p_g at the steps of PANELS."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x
        self.panels: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def on_step(self, trainer: Trainer) -> None:
        if trainer.step in PANELS:
            with torch.random.fork_rng(devices=[]):
                self.panels.append((trainer.step, *look(trainer.architecture, self.x)))


def look(gan: GAN, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(D(x), 20,000 samples of the generator), both 1-D."""
    with torch.no_grad():
        return gan.discriminator(x.view(-1, 1, 1, 1)).sigmoid().flatten(), gan.sample(20_000).flatten()


def measure(out: Path, seed: int) -> dict[str, float]:
    """Train, draw the figure and measure; about a minute on one CPU core."""
    torch.manual_seed(seed)
    gan = registry.create("gan", **PRESET)
    data = torch.randn(50_000, 1, 1, 1)
    panels = Panels(torch.linspace(-4, 4, 201))
    Trainer(
        gan, data, steps=STEPS, batch_size=256, seed=seed, device="cpu", ema_decay=0, callbacks=[panels],
        log_every=1000, sample_every=None, metric_every=None, checkpoint_every=None, progress=False,
    ).fit()  # fmt: skip
    logits, samples = look(gan, torch.linspace(-MASS_95, MASS_95, 201))
    draw(panels, out / "picture.png")
    return {
        "largest |D(x) - 1/2| on 95% of p_data": (logits - 0.5).abs().max().item(),
        "|mean of p_g - 0|": samples.mean().abs().item(),
        "|standard deviation of p_g - 1|": (samples.std() - 1).abs().item(),
    }


def draw(panels: Panels, file: Path) -> None:
    """The four panels: p_data dotted, p_g solid, D(x) dashed, and the best D for this p_g thin."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    x = panels.x
    p_data = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    figure, axes = pyplot.subplots(1, len(panels.panels), figsize=(14, 3.2), sharey=True)
    for axis, (step, d, samples) in zip(axes, panels.panels, strict=True):
        p_g = density(samples, x)
        axis.plot(x, p_data, "k:", label="$p_{data}$")
        axis.plot(x, p_g, "g-", label="$p_g$")
        axis.plot(x, d, "b--", label="$D(x)$")
        axis.plot(x, p_data / (p_data + p_g + 1e-9), "b-", linewidth=0.6, label="$p_{data}/(p_{data}+p_g)$")
        axis.set_title(f"step {step}")
        axis.set_xlabel("x")
        axis.set_ylim(0, 1.05)
    axes[-1].legend(loc="upper right", bbox_to_anchor=(1, 0.93), fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def density(samples: torch.Tensor, x: torch.Tensor, width: float = 0.08) -> torch.Tensor:
    """Kernel estimate of the density of ``samples`` at ``x`` with a Gaussian of the given width."""
    distance = (x[:, None] - samples[None, :5000]) / width
    return torch.exp(-(distance**2) / 2).mean(1) / (width * math.sqrt(2 * math.pi))


RECIPE = Recipe(
    system="GAN",
    data="N(0, 1)",
    paper="figure 1, a sketch",
    checks=(
        AtMost("largest |D(x) - 1/2| on 95% of p_data", 0.05),
        AtMost("|mean of p_g - 0|", 0.1),
        AtMost("|standard deviation of p_g - 1|", 0.1),
    ),
    measure=measure,
)
