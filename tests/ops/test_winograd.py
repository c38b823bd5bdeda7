"""The CPU kernels of Winograd's F(4x4, 2x2) and F(4x4, 3x3), in every geometry, through the ops that use them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading

import pytest
import torch
from numerics import assert_rounding_equal, assert_within_oracle, assert_within_winograd

from fastgan.ops import _library
from fastgan.ops._convolution import convolution, convolution_backward

from .conv_cases import (
    CAPABILITIES,
    DIRECTIONS,
    GEOMETRIES,
    Case,
    all_results,
    aten_convolutions,
    check_planned,
    check_strides,
    cotangent_of,
    in_layout,
    planned,
    results,
    scaling,
    statistics_of,
)

pytestmark = pytest.mark.usefixtures("kernels")

# (batch, small channels, large channels, (H, W) of the small side): neither vectors, nor tiles of 4x4 pixels, nor
# blocks of images, nor depths of 128 channels come out even
SHAPES = {
    "one channel": (3, 1, 1, (1, 3)),
    "few channels": (1, 5, 17, (2, 6)),
    "one tile": (3, 33, 70, (4, 4)),
    "two tiles": (1, 130, 33, (8, 4)),
    "odd size": (3, 17, 5, (9, 5)),
    "deep": (1, 256, 130, (4, 4)),
    "deep large side": (3, 70, 256, (1, 3)),
    "wide": (1, 33, 17, (16, 20)),
    "two blocks": (70, 5, 1, (4, 4)),
    "large batch": (70, 17, 5, (2, 6)),
}
# One axis each: what stands around the convolution.
AROUND = {
    "norm relu": {"activation": "relu"},
    "norm leaky_relu bias": {"bias": True},
    "norm none": {"activation": "none"},
    "norm tanh": {"activation": "tanh"},
    "norm no affine": {"affine": False},
    "eval relu": {"training": False, "activation": "relu"},
    "eval leaky_relu bias": {"training": False, "bias": True},
    "eval tanh": {"training": False, "activation": "tanh"},
    "no norm relu bias": {"norm": False, "activation": "relu", "bias": True},
    "no norm leaky_relu": {"norm": False},
    "no norm none bias": {"norm": False, "activation": "none", "bias": True},
    "no norm tanh bias": {"norm": False, "activation": "tanh", "bias": True},
}
EVERY_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES)
LAYOUTS = ("contiguous", "channels_last", "view")
# More transformed data than one chunk holds, in all three products; the last block is short of two images.
CHUNKED = (42, 32, 40, (16, 16))
FLOAT32_EPS = torch.finfo(torch.float32).eps


@pytest.fixture
def within(geometry):
    """assert_within_winograd for the test's geometry."""
    kernel, stride, _ = GEOMETRIES[geometry]
    return functools.partial(assert_within_winograd, taps=-(-kernel // stride))


@pytest.fixture
def close(within):
    return lambda actual, oracle, baseline, name, scale=None: within(actual, oracle, name, scale)


def identical(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_shapes(geometry, transposed, shape, capability, close):
    for around in ("norm leaky_relu bias", "no norm leaky_relu"):
        check_planned(scaling(geometry, transposed, *SHAPES[shape], **AROUND[around]), "winograd", close, capability)


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("around", AROUND)
def test_what_stands_around_the_convolution(geometry, transposed, around, close):
    check_planned(scaling(geometry, transposed, 3, 33, 18, (5, 6), **AROUND[around]), "winograd", close)


@EVERY_GEOMETRY
@DIRECTIONS
def test_without_gradients(geometry, transposed, within):
    """y alone, not kept for backward, goes another way through BatchNorm with given statistics."""
    for around in AROUND:
        case = scaling(geometry, transposed, 3, 33, 18, (5, 6), **AROUND[around])
        tensors = case.inputs()
        with planned("winograd"):
            kept = case.op(**tensors, **case.options()).y
            with torch.no_grad():
                result = case.op(**tensors, **case.options())
        assert result.z.numel() == 0
        exact = case.modules(tensors, torch.float64)(tensors["x"].double())
        within(result.y, exact, around)
        assert result.y.stride() == kept.stride()


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_layouts(geometry, transposed, layout, weight_layout, close):
    """Strides are ATen's; values do not depend on strides, but for sums over the output, which follow its order."""
    options = dict(layout=layout, weight_layout=weight_layout)
    case = scaling(geometry, transposed, 2, 17, 6, (3, 6), norm=False, **options)
    with planned("winograd"):
        plain = all_results(dataclasses.replace(case, layout="contiguous", weight_layout=None))
        for cotangent_layout in LAYOUTS:
            assert identical(all_results(case, cotangent=cotangent_of(case, cotangent_layout)), plain)
    for cotangent_layout in LAYOUTS:
        for around in ("norm leaky_relu bias", "no norm tanh bias"):
            case = scaling(geometry, transposed, 2, 17, 6, (3, 6), **options, **AROUND[around])
            check_planned(case, "winograd", close, cotangent_layout=cotangent_layout)


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_strides_where_dimensions_are_one(geometry, transposed, layout):
    """A memory format is ambiguous there; what torch decides is the format of the layers that follow."""
    for n, small, large, size in itertools.product((1, 2), (1, 3), (1, 3), ((1, 1), (1, 2))):
        case = scaling(geometry, transposed, n, small, large, size, norm=False, layout=layout)
        check_strides(case, "winograd")


@EVERY_GEOMETRY
@DIRECTIONS
def test_no_convolution_of_aten_is_called(geometry, transposed):
    with planned("winograd"):
        for around in AROUND.values():
            assert aten_convolutions(scaling(geometry, transposed, 2, 8, 8, (4, 4), **around)) == set()


@EVERY_GEOMETRY
@DIRECTIONS
def test_gradients_are_computed_alone_as_together(geometry, transposed, within):
    for around in ("norm leaky_relu bias", "eval leaky_relu bias", "no norm relu bias"):
        case = scaling(geometry, transposed, 2, 17, 6, (3, 6), **AROUND[around])
        tensors, cotangent = case.inputs(), cotangent_of(case)
        with planned("winograd"):
            _, together = results(case, tensors, cotangent)
            for name in together:
                for other in together:
                    tensors[other].requires_grad_(other == name)
                _, alone = results(case, tensors, cotangent)
                if around.startswith("eval"):  # with the bias the gradient of z is written out: rounded elsewhere
                    within(alone[name], together[name].double(), name)
                else:
                    assert torch.equal(alone[name], together[name]), (around, name)


# ---- statistics -----------------------------------------------------------------------------------------------------


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("shape", [(3, 20, 17, (5, 6)), (70, 9, 5, (4, 4)), (9, 17, 20, (16, 16))], ids=str)
def test_statistics_survive_a_large_mean(geometry, transposed, capability, shape):
    """Mean 1000, spread 1: a variance taken as E[z^2] - mean^2 loses every digit in float32."""
    case = scaling(geometry, transposed, *shape, bias=True, activation="none")
    tensors = case.inputs()
    tensors["bias"] = (tensors["bias"].detach() + 1000 * (-1) ** torch.arange(case.c_out)).requires_grad_()
    with planned("winograd", capability):
        result = case.op(**tensors, **case.options())
    mean, invstd = statistics_of(result.z.detach().double())  # of the values that are normalised
    torch.testing.assert_close(result.mean.double(), mean, rtol=FLOAT32_EPS, atol=0)
    assert_rounding_equal(result.invstd, invstd, "invstd")
    u = case.modules(tensors, torch.float64)[:-1](tensors["x"].double())
    # z is rounded to float32 at 1000: half a unit is 3e-5, by gamma * invstd of up to 3
    assert (result.y.double() - u).abs().max() <= 1000 * FLOAT32_EPS * 3


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("size", [(5, 6), (16, 16), (32, 32)], ids=str)
def test_statistics_survive_an_outlier_in_the_first_pixel(geometry, transposed, size):
    """A sum of squares about the first value of a block cancels where that value lies far from the others."""
    case = scaling(geometry, transposed, 3, 17, 20, size, activation="none")
    tensors = case.inputs()
    with torch.no_grad():
        tensors["x"][:, :, 0, 0] = 1000
    with planned("winograd"):
        result = case.op(**tensors, **case.options())
    mean, invstd = statistics_of(result.z.detach().double())
    one = torch.ones(case.c_out)  # standard deviation
    assert_rounding_equal(1 + (result.mean.double() - mean) * invstd, one, "mean")
    assert_rounding_equal(result.invstd / invstd, one, "invstd")


@EVERY_GEOMETRY
@DIRECTIONS
def test_statistics_and_kept_z(geometry, transposed, within):
    for shape in SHAPES.values():
        case = scaling(geometry, transposed, *shape)
        tensors = case.inputs()
        with planned("winograd"):
            result = case.op(**tensors, **case.options())
        z = case.modules(tensors, torch.float64)[0](tensors["x"].double())
        mean, invstd = statistics_of(z)
        within(result.z, z, "z")
        within(result.mean, mean, "mean", scale=z.abs().max().item())
        within(result.invstd, invstd, "invstd")
        assert result.mean.dtype == result.invstd.dtype == torch.float32


# ---- independence ---------------------------------------------------------------------------------------------------


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize(
    "shape", [(6, 70, 40, (8, 8)), (3, 256, 130, (4, 4)), (9, 17, 33, (16, 16)), (31, 5, 17, (16, 16))], ids=str
)
def test_results_do_not_depend_on_the_number_of_threads(geometry, transposed, shape):
    """All of them, and the gradient of x beside a frozen weight. The last shape's blocks divide among two threads."""
    threads = torch.get_num_threads()
    try:
        for around in ("norm leaky_relu bias", "no norm leaky_relu"):
            case, outcomes = scaling(geometry, transposed, *shape, **AROUND[around]), []
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                frozen = case.inputs()
                frozen["weight"].requires_grad_(False)
                with planned("winograd"):
                    outcomes.append(all_results(case) + all_results(case, frozen))
            assert identical(outcomes[0], outcomes[1]) and identical(outcomes[0], outcomes[2]), around
    finally:
        torch.set_num_threads(threads)


def test_several_threads_may_call_at_once():
    cases = [
        scaling("k4 s2", False, 5, 40, 20, (8, 8)),
        scaling("k3 s1", True, 5, 20, 40, (8, 8), norm=False, bias=True),
    ]
    outcomes: list[list] = [[], []]
    start = threading.Barrier(2)

    def run(i: int) -> None:
        start.wait()
        for _ in range(8):
            outcomes[i].append(all_results(cases[i]))

    with planned("winograd"):
        alone = [all_results(case) for case in cases]
        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for expected, found in zip(alone, outcomes, strict=True):
        assert len(found) == 8
        assert all(identical(outcome, expected) for outcome in found)


def with_nan(case: Case) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs and a cotangent of nothing but NaN."""
    tensors = {name: torch.full_like(t, math.nan).requires_grad_(t.requires_grad) for name, t in case.inputs().items()}
    return tensors, torch.full_like(cotangent_of(case), math.nan)


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("shape", ["few channels", "odd size", "two tiles", "large batch", "deep large side"])
def test_results_do_not_depend_on_what_the_workspace_held(geometry, transposed, capability, shape):
    """NaN in the padding of tiles, channels or blocks would spread through the products: 0 * NaN is NaN."""
    n, small, large, (height, width) = SHAPES[shape]
    case = scaling(geometry, transposed, n, small, large, (height, width))
    before = [case, scaling(geometry, transposed, n + 1, small + 40, large + 40, (height + 4, width + 4))]
    with planned("winograd", capability):
        _library.C.release_workspaces()
        fresh = all_results(case)
        for other in before:
            all_results(other, *with_nan(other))
            assert identical(all_results(case), fresh)
    assert all(torch.isfinite(t).all() for t in fresh)


def test_workspaces_are_kept_and_released():
    case = scaling("k4 s2", False, 2, 16, 16, (4, 4))
    with planned("winograd"):
        all_results(case)
    assert _library.C.release_workspaces() > 0
    assert _library.C.release_workspaces() == 0


# ---- what is not a number -------------------------------------------------------------------------------------------


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh"])
def test_nan_and_infinity_reach_what_sees_them_and_no_other_image(geometry, transposed, value, activation):
    case = scaling(geometry, transposed, 3, 18, 7, (5, 6), norm=False, activation=activation)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    clean, poisoned = tensors["x"].detach(), tensors["x"].detach().clone()
    poisoned[1, 2, 3, 1] = value
    marked = torch.zeros_like(clean)
    marked[1, 2, 3, 1] = 1
    seen = torch.ops.aten.convolution(marked, torch.ones_like(tensors["weight"]), None, *case.aten_options()) != 0
    with planned("winograd"), torch.no_grad():
        expected, y = (case.op(x, tensors["weight"], **case.options()).y for x in (clean, poisoned))
    assert torch.equal(y[[0, 2]], expected[[0, 2]])
    if math.isnan(value):
        assert y[seen].isnan().all()
    elif activation in ("none", "leaky_relu"):  # relu and tanh map an infinity to a number
        assert not y[seen].isfinite().any()

    poisoned = cotangent.clone()
    poisoned[1, 0, 2, 3] = value
    with planned("winograd"):
        (_, clean_grads), (_, grads) = (results(case, tensors, g) for g in (cotangent, poisoned))
    assert torch.equal(grads["x"][[0, 2]], clean_grads["x"][[0, 2]])
    assert torch.isfinite(clean_grads["x"]).all() and torch.isfinite(clean_grads["weight"]).all()
    if activation in ("none", "leaky_relu"):  # relu's derivative may be 0 there
        assert not torch.isfinite(grads["x"][1]).all()
        assert not torch.isfinite(grads["weight"]).all()


@EVERY_GEOMETRY
@DIRECTIONS
def test_nan_reaches_the_batch_statistics(geometry, transposed):
    case = scaling(geometry, transposed, 3, 18, 7, (5, 6))
    tensors = case.inputs()
    with torch.no_grad():
        tensors["x"][1, 2, 3, 1] = math.nan
    with planned("winograd"):
        result = case.op(**tensors, **case.options())
    assert result.mean.isnan().all() and result.invstd.isnan().all() and result.y.isnan().all()


# ---- chunks ---------------------------------------------------------------------------------------------------------


@EVERY_GEOMETRY
@DIRECTIONS
def test_chunks(geometry, transposed, close, within):
    """Values and gradients, and that an image's results do not depend on the chunk that it is in."""
    case = scaling(geometry, transposed, *CHUNKED)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    check_planned(case, "winograd", close)

    plain = dataclasses.replace(case, norm=False)
    tensors = {name: tensors[name] for name in ("x", "weight")}
    for capability in CAPABILITIES:
        if CAPABILITIES.index(capability) > CAPABILITIES.index(_library.C.cpu_capability()):
            continue
        with planned("winograd", capability):
            whole, whole_grads = results(plain, tensors, cotangent)
            weight_grad = torch.zeros_like(tensors["weight"], dtype=torch.float64)
            for images in torch.arange(case.n).split(4):  # the images of a block
                part = tensors | {"x": tensors["x"].detach()[images].requires_grad_()}
                result, grads = results(plain, part, cotangent[images])
                assert torch.equal(result.y, whole.y[images]), capability
                assert torch.equal(grads["x"], whole_grads["x"][images]), capability
                weight_grad += grads["weight"]
        within(whole_grads["weight"], weight_grad, f"gradient of weight, {capability}")


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("around", ["eval relu", "no norm relu bias"])
def test_chunks_with_the_activation_in_the_product(geometry, transposed, around):
    case = scaling(geometry, transposed, *CHUNKED, **AROUND[around])
    whole = case.inputs()
    with planned("winograd"), torch.no_grad():
        y = case.op(**whole, **case.options()).y
        for images in (slice(0, 4), slice(20, 24), slice(40, 42)):
            assert torch.equal(y[images], case.op(**whole | {"x": whole["x"][images]}, **case.options()).y)


@EVERY_GEOMETRY
@DIRECTIONS
def test_chunks_of_a_deep_weight(geometry, transposed, within):
    """The gradient of weight alone, of many pairs of depths and two chunks."""
    case = scaling(geometry, transposed, 65, 256, 130, (1, 2), norm=False)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    x, weight = tensors["x"].detach(), tensors["weight"].detach()
    with planned("winograd"):
        grads = convolution_backward(cotangent, x, weight, *case.aten_options(), [False, True, False])
    arguments = (cotangent.double(), x.double(), weight.double(), None, *case.aten_options(), [False, True, False])
    within(grads[1], torch.ops.aten.convolution_backward(*arguments)[1])


# ---- the plain ops --------------------------------------------------------------------------------------------------


@EVERY_GEOMETRY
@DIRECTIONS
@pytest.mark.parametrize("mask", list(itertools.product([True, False], repeat=3)), ids=str)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
def test_plain_convolutions(geometry, transposed, mask, weight_layout, within):
    case = scaling(geometry, transposed, 3, 20, 9, (3, 5), norm=False, bias=True, weight_layout=weight_layout)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    x, weight, bias = (tensors[name].detach() for name in ("x", "weight", "bias"))
    options = case.aten_options()
    exact = [t.double() for t in (x, weight, bias)]
    with planned("winograd"):
        for with_bias in (True, False):
            z = convolution(x, weight, bias if with_bias else None, *options)
            within(z, torch.ops.aten.convolution(*exact[:2], exact[2] if with_bias else None, *options), "z")
            assert z.stride() == torch.ops.aten.convolution(x, weight, None, *options).stride()
        grads = convolution_backward(cotangent, x, weight, *options, list(mask))
    assert [grad is not None for grad in grads] == list(mask)
    arguments = (cotangent.double(), *exact[:2], [case.c_out], *options, [True, True, True])
    oracle = torch.ops.aten.convolution_backward(*arguments)
    baseline = torch.ops.aten.convolution_backward(cotangent, x, weight, [case.c_out], *options, [True, True, True])
    if mask[0]:
        within(grads[0], oracle[0], "gradient of x")
        assert grads[0].stride() == baseline[0].stride()
    if mask[1]:
        within(grads[1], oracle[1], "gradient of weight")
        assert grads[1].stride() == torch.empty_like(weight).stride()
    if mask[2]:  # a plain sum
        assert_within_oracle(grads[2], oracle[2], baseline[2], "gradient of bias", cotangent.double().norm().item())


@EVERY_GEOMETRY
@DIRECTIONS
def test_plain_convolutions_take_strides_of_any_kind(geometry, transposed):
    case = scaling(geometry, transposed, 3, 20, 9, (3, 5), norm=False, layout="view")
    tensors = case.inputs()
    x, weight = tensors["x"].detach(), tensors["weight"].detach()
    with planned("winograd"):
        z = convolution(x, weight, None, *case.aten_options())
        assert torch.equal(z, convolution(in_layout(x, "contiguous"), weight, None, *case.aten_options()))
        cotangent = cotangent_of(case, "view")
        grads = convolution_backward(cotangent, x, weight, *case.aten_options(), [True, True, True])
        dense = (in_layout(t, "contiguous") for t in (cotangent, x, weight))
        same = convolution_backward(*dense, *case.aten_options(), [True, True, True])
    assert identical(list(grads), list(same))
