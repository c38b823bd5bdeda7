"""The choice of what computes a convolution on the CPU: what it covers, that it is made, and that it can be forced."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fastgan.bench import shapes
from fastgan.ops import _convolution, _library, use
from fastgan.ops._convolution import convolution, convolution_backward, plan

from .conv_cases import (
    DIRECTIONS,
    GEOMETRIES,
    Case,
    aten_convolutions,
    cotangent_of,
    halving,
    plan_of,
    planned,
    scaling,
)

pytestmark = pytest.mark.usefixtures("kernels")
ATEN = ("aten",) * 3
KERNELS = ("winograd", "thin", "matmul")


def layer_plan(layer: shapes.ConvLayer, dtype: torch.dtype = torch.float32) -> tuple[str, str, str]:
    x = torch.empty(shapes.BATCH_SIZE, layer.c_in, layer.size, layer.size, dtype=dtype)
    channels = (layer.c_in, layer.c_out) if layer.transposed else (layer.c_out, layer.c_in)
    weight = torch.empty(*channels, layer.kernel_size, layer.kernel_size, dtype=dtype)
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    return plan(x, weight, stride, padding, [1, 1], layer.transposed, [0, 0], 1)


def is_end(layer: shapes.ConvLayer) -> bool:
    return layer.stride == 1


def is_rgb(layer: shapes.ConvLayer) -> bool:
    return shapes.CHANNELS in (layer.c_in, layer.c_out)


LAYERS = pytest.mark.parametrize("layer", [*shapes.GENERATOR, *shapes.DISCRIMINATOR], ids=lambda layer: layer.name)


@LAYERS
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_dcgan_at_64_pixels(layer, capability):
    expected = "matmul" if is_end(layer) else "thin" if is_rgb(layer) else "winograd"
    with planned("auto", capability):
        assert layer_plan(layer) == (expected,) * 3


@LAYERS
def test_dcgan_without_wide_registers(layer):
    with planned("auto", "DEFAULT"):
        assert layer_plan(layer) == ("matmul" if is_end(layer) else "aten",) * 3


@LAYERS
def test_dcgan_in_other_dtypes(layer):
    with planned("auto"):
        assert layer_plan(layer, torch.float64) == ("matmul" if is_end(layer) else "aten",) * 3
        assert "winograd" not in layer_plan(layer, torch.bfloat16)
        assert layer_plan(layer, torch.int64) == ATEN


def test_the_plan_is_a_function_of_its_arguments():
    cases = [
        scaling(g, t, n, small, 16, (8, 8))
        for g in GEOMETRIES
        for t in (False, True)
        for n in (1, 16)
        for small in (8, 32, 128)
    ]
    first = []
    for again in range(3):
        with planned("auto"):  # forgets what was planned
            plans = [plan_of(case) for case in (cases if again % 2 else reversed(cases))]
        first = first or plans[::-1]
        assert (plans if again % 2 else plans[::-1]) == first
    assert all(set(p) <= {"aten", *KERNELS} for p in first)


# What no kernel covers, as changes to a layer of DCGAN; the size is that of x.
NOT_COVERED = {
    "kernel 2": {"kernel": 2, "padding": 0},
    "kernel 3, padding 0": {"kernel": 3, "padding": 0},
    "kernel 3, stride 1, padding 0": {"kernel": 3, "stride": 1, "padding": 0},
    "kernel 3, stride 1, dilation 2": {"kernel": 3, "stride": 1, "dilation": 2, "padding": 2},
    "kernel 3, stride 1, groups 2": {"kernel": 3, "stride": 1, "groups": 2},
    "kernel 3, stride 1, float64": {"kernel": 3, "stride": 1, "dtype": torch.float64},
    "kernel 3, stride 1, bfloat16": {"kernel": 3, "stride": 1, "dtype": torch.bfloat16},
    "kernel 5, padding 1": {"kernel": 5},
    "kernel 5, stride 1": {"kernel": 5, "stride": 1, "padding": 2},
    "kernel 6": {"kernel": 6, "padding": 2},
    "kernel (3, 5)": {"kernel": (3, 5), "padding": (1, 2)},
    "kernel (4, 3)": {"kernel": (4, 3)},
    "stride 1": {"stride": 1},
    "stride (2, 1)": {"stride": (2, 1)},
    "stride 3": {"stride": 3},
    "padding 0": {"padding": 0},
    "padding 2": {"padding": 2},
    "padding (1, 0)": {"padding": (1, 0)},
    "dilation 2": {"dilation": 2},
    "dilation (1, 2)": {"dilation": (1, 2)},
    "groups 2": {"groups": 2},
    "depthwise": {"c_in": 64, "c_out": 64, "groups": 64},
    "float64": {"dtype": torch.float64},
}


@DIRECTIONS
@pytest.mark.parametrize("change", NOT_COVERED)
@pytest.mark.parametrize("forced", ["auto", *KERNELS])
def test_what_is_not_covered_is_atens(transposed, change, forced):
    layer = Case(transposed, 2, 64, 32, (16, 16), kernel=4, stride=2, padding=1)
    with planned(forced):
        assert plan_of(dataclasses.replace(layer, **NOT_COVERED[change])) == ATEN


@pytest.mark.parametrize("forced", ["auto", *KERNELS])
def test_odd_sizes_and_output_padding_are_atens(forced):
    with planned(forced):
        for kernel, stride, padding in GEOMETRIES.values():
            if stride == 1:
                continue
            for size in ((15, 16), (16, 15), (7, 7)):
                assert plan_of(Case(False, 2, 64, 32, size, kernel=kernel, stride=2, padding=padding)) == ATEN
            for output_padding in (1 - kernel % 2, (0, 1)):
                padded = Case(True, 2, 64, 32, (8, 8), kernel, 2, padding, output_padding)
                assert plan_of(padded) == ATEN


@DIRECTIONS
def test_half_the_size_and_the_same_size_are_covered(transposed):
    for geometry in GEOMETRIES:
        for size in ((7, 5), (8, 6)):  # of the small side
            with planned("winograd"):
                assert plan_of(scaling(geometry, transposed, 2, 8, 5, size)) == ("winograd",) * 3, geometry
            with planned("thin"):
                expected = "thin" if geometry == "k4 s2" else "aten"
                assert plan_of(scaling(geometry, transposed, 2, 8, 3, size)) == (expected,) * 3, geometry


@DIRECTIONS
def test_wide_layers_of_every_geometry_are_winograds(transposed):
    with planned("auto", "AVX2"):
        for geometry in GEOMETRIES:
            assert plan_of(scaling(geometry, transposed, 16, 256, 256, (16, 16))) == ("winograd",) * 3, geometry
    with planned("auto", "DEFAULT"):
        for geometry in GEOMETRIES:
            assert plan_of(scaling(geometry, transposed, 16, 256, 256, (16, 16))) == ATEN, geometry


@DIRECTIONS
def test_few_channels_of_kernel_3_are_atens(transposed):
    with planned("auto", "AVX2"):
        for geometry in ("k3 s1", "k3 s2"):
            assert plan_of(scaling(geometry, transposed, 64, 256, 24, (16, 16))) == ATEN
            assert plan_of(scaling(geometry, transposed, 64, 256, 32, (16, 16))) != ATEN


def test_one_channel_is_atens_where_the_result_is_large_and_fits_in_the_cache():
    with planned("auto", "AVX2"):
        for images, output in ((4, "thin"), (16, "aten"), (64, "thin")):
            assert plan_of(halving(False, images, 128, 1, (32, 32))) == (output, "thin", "thin")
            assert plan_of(halving(True, images, 128, 1, (32, 32))) == ("thin", "thin", "thin")


def is_covered(case: Case) -> bool:
    return _convolution.covered(case.inputs()["weight"], *case.aten_options())


@DIRECTIONS
@pytest.mark.parametrize("change", NOT_COVERED)
def test_what_may_ever_be_covered_is_told_without_x(transposed, change):
    layer = Case(transposed, 2, 64, 32, (1, 1), kernel=4, stride=2, padding=1)
    assert is_covered(layer)
    changed = dataclasses.replace(layer, **NOT_COVERED[change])
    # without padding by the matrix product, for an x of the kernel's size; the dtype is x's affair
    by_matmul = changed.padding == 0 and changed.dilation == 1 and changed.groups == 1
    assert is_covered(changed) == (by_matmul or changed.dtype != torch.float32)
    if change == "padding 0":
        size = (1, 1) if transposed else (4, 4)
        with planned("auto"):
            assert plan_of(dataclasses.replace(changed, size=size)) == ("matmul",) * 3
    assert not is_covered(dataclasses.replace(layer, transposed=True, output_padding=1))


@DIRECTIONS
def test_a_forced_kernel_is_taken_where_it_covers_the_call(transposed):
    rgb, deep = halving(transposed, 2, 8, 3, (4, 4)), halving(transposed, 2, 8, 5, (4, 4))
    end = Case(transposed, 2, 4, 4, (1, 1) if transposed else (4, 4), kernel=4, padding=0)
    covered = {"winograd": [rgb, deep], "thin": [rgb], "matmul": [end], "aten": []}
    for kernel, cases in covered.items():
        with planned(kernel):
            for case in (rgb, deep, end):
                assert plan_of(case) == ((kernel,) * 3 if case in cases else ATEN), kernel
                assert (aten_convolutions(case) == set()) == (case in cases), kernel


def test_thin_covers_half_precision_and_four_channels():
    with planned("thin"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert plan_of(halving(True, 2, 8, 4, (4, 4), dtype=dtype)) == ("thin",) * 3
        assert plan_of(halving(True, 2, 8, 5, (4, 4))) == ATEN
        assert plan_of(halving(True, 2, 8, 3, (4, 4), dtype=torch.float64)) == ATEN


def test_unknown_words_are_named():
    words = (
        "set_convolution_plan: plan is 'fft'; it takes auto, aten, matmul or thin, winograd for the CPU, aten, matmul, "
    )
    words += "thin, sm80, sm80_one_launch, sm90a, sm90a_one_launch or fixed for CUDA"
    with pytest.raises(ValueError, match=words):
        _library.C.set_convolution_plan("fft")
    x, weight, pairs = (2, 64, 8, 8), (64, 32, 4, 4), ((2, 2), (1, 1), (1, 1), True, (0, 0), 1)
    assert len(_library.C.convolution_plan(x, weight, *pairs, "float32", 1)) == 3
    with pytest.raises(ValueError, match="dtype is 'int8'; it takes float32, bfloat16, float16 or float64"):
        _library.C.convolution_plan(x, weight, *pairs, "int8", 1)
    with pytest.raises(ValueError, match="x and weight take 4 sizes, the options take 2"):
        _library.C.convolution_plan(x[:3], weight, *pairs, "float32", 1)


def test_a_refused_word_changes_nothing():
    case = halving(True, 2, 8, 5, (4, 4))
    with planned("winograd"):
        with pytest.raises(ValueError):
            _library.C.set_convolution_plan("")
        _convolution._planned.cache_clear()
        assert plan_of(case) == ("winograd",) * 3


def calls(case: Case) -> list[str]:
    """The kernel ops that the fused op and the plain convolutions call, forward and backward."""
    names = []

    class Listener(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    tensors, cotangent = case.inputs(), cotangent_of(case)
    x, weight = tensors["x"].detach(), tensors["weight"].detach()
    with Listener():
        case.op(**tensors, **case.options()).y.sum().backward()
        convolution(x, weight, None, *case.aten_options())
        convolution_backward(cotangent, x, weight, *case.aten_options(), [True, True, True])
    return sorted(name.removesuffix(".default") for name in names if name.startswith("fastgan."))


@DIRECTIONS
@pytest.mark.parametrize("norm", [True, False])
def test_auto_takes_the_kernel_of_a_planned_layer_and_reference_never_does(transposed, norm):
    """Small: nothing but the plan speaks for a kernel."""
    case = halving(transposed, 2, 8, 6, (4, 4), norm=norm)
    name = f"fastgan.{case.op.__name__}"
    taken = sorted([name, f"{name}_backward", "fastgan.convolution", "fastgan.convolution_backward"])
    with planned("winograd"):
        with use("auto"):
            assert calls(case) == taken
            assert aten_convolutions(case) == set()
        with use("reference"):
            assert calls(case) == []
            assert aten_convolutions(case)
    with planned("aten"), use("auto"):
        assert calls(case) == []


@DIRECTIONS
def test_plain_convolutions_by_the_reference(transposed):
    case = halving(transposed, 2, 8, 6, (4, 4), norm=False, layout="channels_last")
    tensors, cotangent = case.inputs(), cotangent_of(case)
    x, weight, options = tensors["x"].detach(), tensors["weight"].detach(), case.aten_options()
    with planned("winograd"), use("reference"):
        assert torch.equal(
            convolution(x, weight, None, *options), torch.ops.aten.convolution(x, weight, None, *options)
        )
        grads = convolution_backward(cotangent, x, weight, *options, [True, False, True])
    expected = torch.ops.aten.convolution_backward(cotangent, x, weight, [case.c_out], *options, [True, False, True])
    assert grads[1] is None and torch.equal(grads[0], expected[0]) and torch.equal(grads[2], expected[2])


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_the_gradient_of_a_weight_lies_as_the_weight(implementation):
    """As the docstring says, whoever computes it."""
    for layout in ("contiguous", "channels_last"):
        for kernel in (3, 4):
            case = Case(False, 2, 8, 8, (8, 8), kernel=kernel, stride=2, norm=False, layout=layout)
            case = dataclasses.replace(
                case, weight_layout="contiguous" if layout == "channels_last" else "channels_last"
            )
            tensors, cotangent = case.inputs(), cotangent_of(case)
            x, weight = tensors["x"].detach(), tensors["weight"].detach()
            with use(implementation):
                mask = [False, True, False]
                grad = convolution_backward(cotangent, x, weight, *case.aten_options(), mask)[1]
            assert grad.stride() == weight.stride(), (layout, kernel)


@DIRECTIONS
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_plain_ops_do_as_their_schemas_and_fakes_say(transposed, kernel, layout):
    if kernel == "matmul":
        case = Case(transposed, 2, 6, 5, (1, 1) if transposed else (4, 4), kernel=4, padding=0, layout=layout)
    else:
        case = halving(transposed, 2, 6, 3, (4, 4), layout=layout)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    x, weight, bias = tensors["x"].detach(), tensors["weight"].detach(), torch.randn(case.c_out)
    ops, utilities = torch.ops.fastgan, ("test_schema", "test_faketensor")
    with planned(kernel):
        assert plan_of(case) == (kernel,) * 3
        torch.library.opcheck(
            ops.convolution.default, (x, weight, bias, *case.aten_options(), False), test_utils=utilities
        )
        for mask in ((True, True, True), (True, True, False), (True, False, True), (False, True, True)):
            arguments = (cotangent, x, weight, *case.aten_options(), *mask, False)
            torch.library.opcheck(ops.convolution_backward.default, arguments, test_utils=utilities)


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_the_fake_shares_no_memory_between_gradients_that_are_not_asked_for(mask):
    case = halving(False, 2, 6, 3, (4, 4))
    tensors = case.inputs()
    arguments = (
        cotangent_of(case),
        tensors["x"].detach(),
        tensors["weight"].detach(),
        *case.aten_options(),
        *mask,
        False,
    )
    op, utilities = torch.ops.fastgan.convolution_backward.default, ("test_schema", "test_faketensor")
    with planned("winograd"):
        torch.library.opcheck(op, arguments, test_utils=utilities)


def test_convolutions_of_other_dimensions_are_atens():
    x, weight = torch.randn(2, 3, 9), torch.randn(4, 3, 4)
    options = ([2], [1], [1], False, [0], 1)
    for implementation in ("auto", "kernel", "reference"):
        with use(implementation):
            z = convolution(x, weight, None, *options)
            assert torch.equal(z, torch.ops.aten.convolution(x, weight, None, *options))
            grads = convolution_backward(torch.ones_like(z), x, weight, *options, [True, True, False])
        expected = torch.ops.aten.convolution_backward(
            torch.ones_like(z), x, weight, None, *options, [True, True, False]
        )
        assert torch.equal(grads[0], expected[0]) and torch.equal(grads[1], expected[1]) and grads[2] is None


def test_options_of_one_value_hold_for_both_axes():
    case = halving(False, 2, 8, 6, (4, 4), norm=False)
    tensors, cotangent = case.inputs(), cotangent_of(case)
    x, weight = tensors["x"].detach(), tensors["weight"].detach()
    short = ([2], [1], [1], False, [0], 1)
    with planned("winograd"):
        assert torch.equal(convolution(x, weight, None, *short), convolution(x, weight, None, *case.aten_options()))
        mask = [True, True, True]
        pairs = zip(
            convolution_backward(cotangent, x, weight, *short, mask),
            convolution_backward(cotangent, x, weight, *case.aten_options(), mask),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs)
