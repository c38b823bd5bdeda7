"""The CPU kernels of convolutions with an image of 1 to 4 channels at one end, through the ops that use them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from numerics import assert_within_oracle
from torch.profiler import ProfilerActivity, profile

from fastgan.ops import _library, use

from .conv_cases import Case, activation_factor, in_layout, module_results

pytestmark = pytest.mark.usefixtures("kernels")
CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
DIRECTIONS = pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])

# (batch, small channels, large channels, (H, W) of the small image)
SHAPES = {
    "one pixel": (1, 1, 3, (1, 1)),
    "one row": (2, 5, 1, (1, 3)),
    "one column": (2, 17, 2, (5, 1)),
    "rgb": (3, 64, 3, (8, 8)),
    "rgba": (2, 70, 4, (3, 13)),
    "grey": (2, 33, 1, (6, 10)),
    "two": (2, 48, 2, (4, 9)),
    "deep": (2, 300, 3, (4, 6)),
    "several parts": (5, 64, 3, (16, 20)),
}


def thin(transposed: bool, shape: str, **options) -> Case:
    n, small, large, (height, width) = SHAPES[shape]
    c_in, c_out, size = (small, large, (height, width)) if transposed else (large, small, (2 * height, 2 * width))
    fixed = dict(kernel=4, stride=2, padding=1, norm=False, bias=True)
    return Case(transposed=transposed, n=n, c_in=c_in, c_out=c_out, size=size, **(fixed | options))


@pytest.fixture
def capability():
    """set_cpu_capability, undone afterwards."""
    before = _library.C.cpu_capability()
    yield _library.C.set_cpu_capability
    _library.C.set_cpu_capability(before)


def results(case: Case, tensors: dict, cotangent: torch.Tensor):
    """y and the gradients by name, by kernel."""
    with use("kernel"):
        y = case.op(**tensors, **case.options()).y
        wanted = {name: t for name, t in tensors.items() if t.requires_grad}
        return y.detach(), dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), cotangent), strict=True))


def cotangent_of(case: Case) -> torch.Tensor:
    height, width = (2 * s if case.transposed else s // 2 for s in case.size)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(case.n, case.c_out, height, width, generator=generator).to(case.dtype)


def aten_strides(case: Case, tensors: dict, cotangent: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Strides of the gradients of ATen's convolution, by name."""
    tensors = {name: t.detach() for name, t in tensors.items()}
    grads = torch.ops.aten.convolution_backward(
        cotangent, tensors["x"], tensors["weight"], [case.c_out], [2, 2], [1, 1], [1, 1], case.transposed, [0, 0], 1,
        [True, True, True],
    )  # fmt: skip
    return {name: grad.stride() for name, grad in zip(("x", "weight", "bias"), grads, strict=True)}


def check(case: Case, tensors: dict | None = None, cotangent: torch.Tensor | None = None) -> None:
    """Values and gradients are as near to float64 as torch's own, and lie in memory as torch's own."""
    tensors = case.inputs() if tensors is None else tensors
    cotangent = cotangent_of(case) if cotangent is None else cotangent
    y, grads = results(case, tensors, cotangent)
    factor = activation_factor(case, y)
    oracle, _, exact = module_results(case, tensors, torch.float64, cotangent, factor)
    baseline, z, rounded = module_results(case, tensors, case.dtype, cotangent, factor)
    assert_within_oracle(y, oracle, baseline, "y")
    assert y.dtype == case.dtype
    assert y.stride() == z.stride()
    assert set(grads) == set(exact)
    strides = aten_strides(case, tensors, cotangent)
    for name, grad in grads.items():
        scale = cotangent.double().norm().item() if name == "bias" else None
        assert_within_oracle(grad, exact[name], rounded[name], f"gradient of {name}", scale)
        assert grad.dtype == case.dtype
        assert grad.stride() == strides[name], name


@DIRECTIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", CAPABILITIES)
def test_shapes(capability, transposed, shape, level):
    if CAPABILITIES.index(level) > CAPABILITIES.index(_library.C.cpu_capability()):
        pytest.skip(f"this process takes at most {_library.C.cpu_capability()}")
    capability(level)
    check(thin(transposed, shape, activation="tanh" if transposed else "leaky_relu"))


@DIRECTIONS
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_and_dtypes(transposed, activation, dtype):
    check(thin(transposed, "rgb", activation=activation, dtype=dtype))
    check(thin(transposed, "one row", activation=activation, dtype=dtype, bias=False))


@DIRECTIONS
@pytest.mark.parametrize("x_layout", ["contiguous", "channels_last", "view"])
@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last", "view"])
def test_layouts(transposed, x_layout, weight_layout):
    for shape in ("rgb", "grey"):
        case = thin(transposed, shape, layout=x_layout)
        tensors = case.inputs()
        tensors["weight"] = in_layout(tensors["weight"].detach(), weight_layout).requires_grad_()
        cotangent = in_layout(cotangent_of(case), weight_layout)
        y, grads = results(case, tensors, cotangent)
        plain = dataclasses.replace(case, layout="contiguous")
        same_y, same_grads = results(plain, plain.inputs(), cotangent_of(case))
        assert torch.equal(y, same_y)
        assert all(torch.equal(grads[name], same_grads[name]) for name in same_grads)
        if weight_layout != "view":
            check(case, tensors, cotangent)


@DIRECTIONS
def test_gradients_are_computed_alone_as_together(transposed):
    case = thin(transposed, "rgba", activation="tanh")
    tensors, cotangent = case.inputs(), cotangent_of(case)
    _, together = results(case, tensors, cotangent)
    for name in together:
        for other in together:
            tensors[other].requires_grad_(other == name)
        _, alone = results(case, tensors, cotangent)
        assert torch.equal(alone[name], together[name]), name


@DIRECTIONS
@pytest.mark.parametrize("shape", ["several parts", "deep"])
def test_results_do_not_depend_on_the_number_of_threads(transposed, shape):
    case = thin(transposed, shape)
    threads = torch.get_num_threads()
    outcomes = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            y, grads = results(case, case.inputs(), cotangent_of(case))
            outcomes.append([y, *grads.values()])
    finally:
        torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcome, outcomes[0], strict=True))


@DIRECTIONS
def test_forward_is_accurate(transposed):
    """The sums are short: 64 channels x 4 taps, or 48 taps."""
    case = thin(transposed, "rgb", activation="none")
    tensors, cotangent = case.inputs(), cotangent_of(case)
    y, _ = results(case, tensors, cotangent)
    exact = module_results(case, tensors, torch.float64, cotangent, None)[0]
    assert torch.linalg.vector_norm(y.double() - exact) <= 5e-7 * torch.linalg.vector_norm(exact)


def convolutions(case: Case) -> set[str]:
    """ATen's convolutions that a forward and a backward pass call."""
    with profile(activities=[ProfilerActivity.CPU]) as run, use("kernel"):
        case.op(**case.inputs(), **case.options()).y.sum().backward()
    return {event.name for event in run.events() if event.name.startswith("aten::") and "conv" in event.name}


@DIRECTIONS
def test_what_is_covered(transposed):
    assert convolutions(thin(transposed, "rgb")) == set()
    assert convolutions(thin(transposed, "rgb", norm=True))  # batch statistics: the op's other path
    assert convolutions(dataclasses.replace(thin(transposed, "rgb"), kernel=3))
    assert convolutions(dataclasses.replace(thin(transposed, "rgb"), padding=2))
    assert convolutions(thin(transposed, "rgb", dtype=torch.float64))
    assert convolutions(dataclasses.replace(thin(transposed, "rgb"), c_in=5, c_out=5))
    if not transposed:
        assert convolutions(dataclasses.replace(thin(transposed, "rgb"), size=(9, 8)))
