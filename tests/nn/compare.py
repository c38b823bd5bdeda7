"""Two copies of a model, one fused: the same steps on both, and everything compared."""

from __future__ import annotations

import copy

import torch
from torch import nn

# Relative to the largest value. Both sides round the same formulas in another order: a few thousand additions of eps
# each. float32 gradients get more, since a unit within rounding of zero may flip its ReLU and take a whole term along.
OUTPUT_TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
GRADIENT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-3}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str, floor: float = 0.0) -> None:
    """Largest difference at most ``tolerance`` of the largest expected value (or of ``floor``)."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, what
    if expected.numel() == 0:
        return
    scale = max(expected.abs().max().item(), floor)
    error = (actual - expected).abs().max().item()
    assert error <= tolerance * scale, f"{what}: error {error:.2e} at scale {scale:.2e}"


def run(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output and the inputs' gradients of a loss that treats every output value differently."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = model(*inputs)
    model.zero_grad()
    probe = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * probe).sum().backward()
    return output.detach(), [x.grad for x in inputs if x.requires_grad]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_step(
    fused: nn.Module, plain: nn.Module, inputs: tuple[torch.Tensor, ...], exact: bool = False, buffers: bool = True
) -> None:
    """One forward and backward on both: outputs, all gradients and all buffers agree."""
    dtype = next(x.dtype for x in inputs if x.is_floating_point())
    close, loose = (0.0, 0.0) if exact else (OUTPUT_TOLERANCE[dtype], GRADIENT_TOLERANCE[dtype])
    y, input_grads = run(fused, inputs)
    y_plain, input_grads_plain = run(plain, inputs)
    assert y.stride() == y_plain.stride()
    assert_close(y, y_plain, close, "output")
    for g, g_plain in zip(input_grads, input_grads_plain, strict=True):
        assert_close(g, g_plain, loose, "input gradient")
    g, g_plain = gradients(fused), gradients(plain)
    assert g.keys() == g_plain.keys()
    # A bias before a train-mode BatchNorm has gradient zero, and rounding noise at the scale of the others instead.
    largest = max((v.abs().max().item() for v in g_plain.values()), default=0.0)
    for name in g:
        assert_close(g[name], g_plain[name], loose, f"gradient of {name}", floor=0.01 * largest)
    if not buffers:
        return
    for (name, b), (name_plain, b_plain) in zip(fused.named_buffers(), plain.named_buffers(), strict=True):
        assert name == name_plain
        assert_close(b.double(), b_plain.double(), close, f"buffer {name}")


def descend(model: nn.Module, like: nn.Module, lr: float = 1e-3) -> None:
    """A step of gradient descent by ``like``'s gradients, so that two models stay on one path."""
    with torch.no_grad():
        for p, q in zip(model.parameters(), like.parameters(), strict=True):
            if q.grad is not None:
                p -= lr * q.grad


def twins(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    return copy.deepcopy(model), model
