"""Min-max of f(x, y) = xy: plain simultaneous gradient descent circles away from the solution, four remedies do not.

x drives f down and y drives it up: the smallest game there is, with its only solution at (0, 0), and the example by
which Goodfellow 2016 ("NIPS 2016 Tutorial: Generative Adversarial Networks", exercise 7.2) shows why GANs need not
converge. The players' gradients come from autograd. Every method is linear here, so that how far from the solution it
must end is known exactly, which is what the measured distances are compared with (start (x0, y0) at distance 1, n steps
of size h; derivations beside the functions):

    simultaneous    (1 + h^2)^(n/2): away, at every step
    alternating     y answers x's new value: circles for ever, on the ellipse x^2 + y^2 - hxy = x0^2 + y0^2 - h x0 y0
    averaged        the mean of all alternating iterates: within 2 (1 + h) / (h n) of the solution (Yazici et al. 2019,
                    "The Unusual Effectiveness of Averaging in GAN Training")
    extragradient   (1 - h^2 + h^4)^(n/2) (Korpelevich 1976; Gidel et al. 2019, "A Variational Inequality Perspective
                    on Generative Adversarial Networks")
    optimistic      falls by sqrt((1 + sqrt(1 - 4 h^2)) / 2) a step (Daskalakis et al. 2018, "Training GANs with
                    Optimism")
    penalised       alternating, y pays R1's |df/dx|^2 / 2 = y^2 / 2 (Mescheder et al. 2018, "Which Training Methods for
                    GANs do actually Converge?"): falls by sqrt(1 - h) a step

Written in torch alone: what the library has of this are the penalty (``fastgan.losses.r1_penalty``), the trainer's
alternating updates and its averaged generators. Start and steps are choices of ours, no paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from fastgan.recipes import AtLeast, AtMost, Recipe

STEPS = 1000
STEP_SIZE = 0.1  # h

Method = Callable[[torch.Tensor, float, int], torch.Tensor]


def slopes(point: torch.Tensor, penalty: float = 0.0) -> torch.Tensor:
    """What each player's step goes against, at ``point`` (2,): (df/dx, -d(f - penalty y^2 / 2)/dy)."""
    x, y = (value.detach().clone().requires_grad_() for value in point)
    (down,) = torch.autograd.grad(x * y, x, create_graph=True)
    (up,) = torch.autograd.grad(x * y - penalty / 2 * down.square(), y)
    return torch.stack([down.detach(), -up])


def simultaneous(start: torch.Tensor, h: float, steps: int) -> torch.Tensor:
    """All points (steps + 1, 2). As a complex number x + iy, a step multiplies by 1 + ih."""
    points = [start]
    for _ in range(steps):
        points.append(points[-1] - h * slopes(points[-1]))
    return torch.stack(points)


def alternating(start: torch.Tensor, h: float, steps: int, penalty: float = 0.0) -> torch.Tensor:
    """The matrix of a step is ((1, -h), (h, 1 - h^2 - h penalty)), of determinant 1 - h penalty; it rotates as long as
    its trace is below twice the root of that."""
    points = [start]
    for _ in range(steps):
        point = points[-1].clone()
        point[0] -= h * slopes(point)[0]
        point[1] -= h * slopes(point, penalty)[1]
        points.append(point)
    return torch.stack(points)


def penalised(start: torch.Tensor, h: float, steps: int) -> torch.Tensor:
    """Alternating, with R1 of weight 1."""
    return alternating(start, h, steps, penalty=1.0)


def averaged(start: torch.Tensor, h: float, steps: int) -> torch.Tensor:
    """The mean of the alternating points so far, after every step."""
    return alternating(start, h, steps).cumsum(0) / torch.arange(1, steps + 2)[:, None]


def extragradient(start: torch.Tensor, h: float, steps: int) -> torch.Tensor:
    """A step by the slopes found one step ahead: as a complex number, multiplies by 1 + ih (1 + ih)."""
    points = [start]
    for _ in range(steps):
        ahead = points[-1] - h * slopes(points[-1])
        points.append(points[-1] - h * slopes(ahead))
    return torch.stack(points)


def optimistic(start: torch.Tensor, h: float, steps: int) -> torch.Tensor:
    """A step by twice the slopes less those before: complex, z'' = (1 + 2ih) z' - ih z, the larger root of which is
    ih + (1 + sqrt(1 - 4h^2)) / 2."""
    points, before = [start], slopes(start)
    for _ in range(steps):
        now = slopes(points[-1])
        points.append(points[-1] - h * (2 * now - before))
        before = now
    return torch.stack(points)


METHODS: dict[str, Method] = {
    "simultaneous": simultaneous,
    "alternating": alternating,
    "averaged": averaged,
    "extragradient": extragradient,
    "optimistic": optimistic,
    "penalised": penalised,
}


def measure(out: Path, seed: int) -> dict[str, float]:
    """Play the game by every method from a random point at distance 1; seconds."""
    angle = 2 * math.pi * torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    start = torch.stack([angle.cos(), angle.sin()])
    paths = {name: method(start, STEP_SIZE, STEPS) for name, method in METHODS.items()}
    draw(paths, out / "picture.png")
    distances = {name: path.norm(dim=1) for name, path in paths.items()}
    measured = {f"{name}: distance at the end": distance[-1].item() for name, distance in distances.items()}
    measured["alternating: least distance"] = distances["alternating"].min().item()
    return measured | {"largest relative difference from the exact answers": difference(paths)}


def difference(paths: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of what ``paths`` (from distance 1) did from what the mathematics say."""
    h, n = STEP_SIZE, STEPS
    x, y = paths["alternating"].unbind(1)
    ellipse = x.square() + y.square() - h * x * y
    end = {name: path[-1].norm().item() for name, path in paths.items()}
    # the start mixes both roots; half way to the end the smaller one's part is gone, in the optimistic method
    half = paths["optimistic"][n // 2].norm().item()
    pairs = [
        (end["simultaneous"], (1 + h**2) ** (n / 2)),
        (end["extragradient"], (1 - h**2 + h**4) ** (n / 2)),
        (end["optimistic"] / half, ((1 + math.sqrt(1 - 4 * h**2)) / 2) ** ((n - n // 2) / 2)),
        *((value, ellipse[0].item()) for value in ellipse.tolist()),
    ]
    return max(abs(found / exact - 1) for found, exact in pairs)


def draw(paths: dict[str, torch.Tensor], file: Path) -> None:
    """Left the trajectories, right the distance from the solution."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'fastgan[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (plane, distance) = pyplot.subplots(1, 2, figsize=(9.5, 4.2))
    for name, path in paths.items():
        line = "--" if name == "optimistic" else "-"  # next to extragradient's
        plane.plot(*path[: 3 * STEPS // 10].T, line, linewidth=0.9, label=name)
        distance.semilogy(path.norm(dim=1), line, linewidth=1.2, label=name)
    plane.plot(0, 0, "k+", markersize=10)
    plane.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), xlabel="x", ylabel="y", aspect="equal")
    plane.set_title(f"first {3 * STEPS // 10} steps of {STEP_SIZE:g} from distance 1")
    distance.set(xlabel="step", ylim=(1e-6, 1e3), title="distance from the solution")
    distance.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


RECIPE = Recipe(
    system="Min-max of xy",
    data="f(x, y) = xy",
    paper="circles for infinitely small steps (Goodfellow 2016, exercise 7.2)",
    checks=(
        AtMost("largest relative difference from the exact answers", 1e-9),
        AtLeast("simultaneous: distance at the end", 100.0),
        AtLeast("alternating: least distance", 0.9),
        AtMost("averaged: distance at the end", 2 * (1 + STEP_SIZE) / (STEP_SIZE * STEPS)),
        AtMost("extragradient: distance at the end", 0.01),
        AtMost("optimistic: distance at the end", 0.01),
        AtMost("penalised: distance at the end", 1e-9),
    ),
    measure=measure,
)
