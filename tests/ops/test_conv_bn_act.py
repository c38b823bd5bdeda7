"""conv2d_bn_act and conv_transpose2d_bn_act against torch.nn modules in float64, to the third derivative."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numerics import assert_rounding_equal, assert_within_oracle
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from fastgan.ops import _library, conv2d_bn_act, conv_transpose2d_bn_act, update_running_stats_, use
from fastgan.ops._conv_bn_act import Geometry, worthwhile

from .conv_cases import NAMES, Case, activation_factor, module_results, set_plan, statistics_of

FLOAT32, FLOAT64 = torch.float32, torch.float64
DIRECTIONS = pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])

# One axis changed at a time, from Case's defaults.
AXES = {
    "default": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "float64": {"dtype": FLOAT64},
    "bfloat16 no affine": {"dtype": torch.bfloat16, "affine": False},
    "bfloat16 half affine": {"dtype": torch.bfloat16, "half_affine": True},
    "float16 eval": {"dtype": torch.float16, "training": False},
    "bfloat16 no norm": {"dtype": torch.bfloat16, "norm": False, "bias": True},
    "channels_last": {"layout": "channels_last"},
    "view": {"layout": "view"},
    "channels 3 -> 5": {"c_in": 3, "c_out": 5},
    "channels 59": {"c_in": 5, "c_out": 59},
    "channels 1": {"c_in": 1, "c_out": 1},
    "odd size": {"size": (7, 9)},
    "wide": {"size": (3, 17)},
    "1x1 image": {"size": (1, 1)},
    "batch 1": {"n": 1},
    "bias": {"bias": True},
    "no affine": {"affine": False},
    "eval": {"training": False},
    "eval bias": {"training": False, "bias": True},
    "eval no affine": {"training": False, "affine": False},
    "no norm": {"norm": False},
    "no norm bias": {"norm": False, "bias": True},
    "none": {"activation": "none"},
    "relu": {"activation": "relu"},
    "tanh": {"activation": "tanh"},
    "tanh no norm": {"activation": "tanh", "norm": False, "bias": True},
    "tanh eval": {"activation": "tanh", "training": False},
    "dcgan": {"kernel": 4, "stride": 2, "size": (8, 8)},
    "first layer": {"kernel": 4, "padding": 0, "size": (4, 4)},
    "stride (2, 1)": {"stride": (2, 1), "kernel": (3, 2), "padding": (0, 1)},
    "dilation": {"dilation": (2, 1), "padding": 2},
    "groups": {"groups": 2},
    "depthwise": {"c_in": 4, "c_out": 4, "groups": 4},
    "kernel 1": {"kernel": 1, "padding": 0},
}
CASES = [
    pytest.param(Case(transposed=transposed, **change), id=f"{'conv_transpose' if transposed else 'conv'}-{name}")
    for transposed in (False, True)
    for name, change in AXES.items()
] + [
    pytest.param(Case(transposed=True, stride=2, output_padding=1), id="conv_transpose-output_padding"),
    pytest.param(Case(transposed=True, stride=(3, 2), output_padding=(2, 0)), id="conv_transpose-output_padding pair"),
]


@pytest.fixture(autouse=True)
def convolutions_by_aten():
    """The passes around the convolution are looked at here; convolutions of our own have bounds of their own."""
    set_plan("aten")
    yield
    set_plan("auto")


def check_against_modules(case: Case, seed: int = 0) -> None:
    """Values, statistics, strides and first gradients; and that nothing given is written to."""
    tensors = case.inputs(seed)
    given_values = {name: t.detach().clone() for name, t in tensors.items()}
    result = case.op(**tensors, **case.options())
    cotangent = torch.randn(result.y.shape, dtype=FLOAT64).to(case.dtype)
    factor = activation_factor(case, result.y)
    y, z, grads = module_results(case, tensors, FLOAT64, cotangent, factor)
    y_baseline, z_baseline, grads_baseline = module_results(case, tensors, case.dtype, cotangent, factor)

    assert_within_oracle(result.y, y, y_baseline, "y")
    conv = F.conv_transpose2d if case.transposed else F.conv2d
    output_padding = {"output_padding": case.output_padding} if case.transposed else {}
    plain = conv(
        tensors["x"], tensors["weight"], None, case.stride, case.padding, groups=case.groups, dilation=case.dilation,
        **output_padding,
    )  # fmt: skip
    assert result.y.stride() == plain.stride()
    assert result.y.dtype == case.dtype
    statistics = FLOAT64 if case.dtype == FLOAT64 else FLOAT32
    assert result.mean.dtype == result.invstd.dtype == statistics
    if not case.norm:
        assert result.mean.shape == result.invstd.shape == result.z.shape == (0,)
    else:
        running = [tensors["running_mean"].double(), torch.rsqrt(tensors["running_var"].double() + 1e-5)]
        exact = statistics_of(z) if case.training else running
        baseline = statistics_of(z_baseline.to(statistics)) if case.training else [t.to(statistics) for t in running]
        for name, e, b in zip(("mean", "invstd"), exact, baseline, strict=True):
            assert_within_oracle(getattr(result, name), e, b, name, dtype=case.dtype)
        assert_within_oracle(result.z, z, z_baseline, "z")

    result.y.backward(cotangent)
    for name, expected in grads.items():
        cancelled = name == "bias" and case.norm and case.training
        # A sum over the batch has terms of the size of dY: their rounding adds up to an ulp of its L2 norm.
        scale = cotangent.double().norm().item() if name in ("bias", "gamma", "beta") else None
        assert_within_oracle(tensors[name].grad, expected, grads_baseline[name], f"gradient of {name}", scale)
        assert tensors[name].grad.dtype == tensors[name].dtype
        if cancelled and "fastgan" in result.y.grad_fn.name().lower():
            assert not tensors[name].grad.any()
    for name, value in given_values.items():
        assert torch.equal(tensors[name], value), f"{name} was written to"


@pytest.mark.parametrize("case", CASES)
def test_values_statistics_strides_and_gradients(case, implementation):
    check_against_modules(case)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.builds(
        Case,
        transposed=st.booleans(),
        n=st.integers(2, 4),
        c_in=st.sampled_from([2, 4, 6]),
        c_out=st.sampled_from([2, 6, 10]),
        size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
        kernel=st.sampled_from([1, 3, 4, (3, 4)]),
        stride=st.sampled_from([1, 2, (1, 2)]),
        padding=st.sampled_from([1, (2, 1)]),
        groups=st.sampled_from([1, 2]),
        bias=st.booleans(),
        affine=st.booleans(),
        norm=st.booleans(),
        training=st.booleans(),
        activation=st.sampled_from(["none", "relu", "leaky_relu", "tanh"]),
        dtype=st.sampled_from([FLOAT32, FLOAT32, torch.bfloat16, FLOAT64]),
        layout=st.sampled_from(["contiguous", "channels_last", "view"]),
    ),
    seed=st.integers(0, 1000),
)
def test_random_draws_over_the_product(implementation, case, seed):
    if case.transposed and case.kernel == 1:  # padding 1 would eat more than a 1x1 kernel adds
        case = dataclasses.replace(case, padding=0)
    check_against_modules(case, seed)


@DIRECTIONS
@pytest.mark.parametrize("norm", [True, False])
def test_empty_batch(transposed, norm):
    case = Case(transposed=transposed, n=0, norm=norm, bias=True)
    tensors = case.inputs()
    result = case.op(**tensors, **case.options())
    assert result.y.shape[0] == 0 and result.y.shape[1] == case.c_out
    result.y.sum().backward()
    for name in set(NAMES) & set(tensors):
        assert not tensors[name].grad.any(), name


@DIRECTIONS
@pytest.mark.parametrize("wanted", [c for r in range(1, 6) for c in itertools.combinations(NAMES, r)], ids="-".join)
def test_every_subset_of_inputs_requiring_grad(transposed, wanted, implementation):
    case = Case(transposed=transposed, bias=True, n=2, c_in=2, c_out=3, size=(4, 4), dtype=FLOAT64)
    tensors = case.inputs()
    net = case.modules(tensors, FLOAT64)
    x = tensors["x"].detach().clone().requires_grad_()
    net(x).sin().sum().backward()
    expected = (x.grad, net[0].weight.grad, net[0].bias.grad, net[1].weight.grad, net[1].bias.grad)
    for name in NAMES:
        tensors[name].requires_grad_(name in wanted)
    case.op(**tensors, **case.options()).y.sin().sum().backward()
    for name, gradient in zip(NAMES, expected, strict=True):
        if name not in wanted:
            assert tensors[name].grad is None
        else:
            assert_within_oracle(tensors[name].grad, gradient, gradient, name, scale=10.0)


def away_from_corners(case: Case) -> dict[str, torch.Tensor]:
    """Inputs whose pre-activations all keep a distance from 0 that finite differences do not cross."""
    for seed in range(200):
        tensors = case.inputs(seed)
        u = case.modules(tensors, FLOAT64)[:-1](tensors["x"])
        if case.activation in ("tanh", "none") or u.abs().min() > 1e-3:
            return tensors
    raise AssertionError("no seed keeps away from the corners")


DERIVATIVE_CASES = {
    "train": Case(),
    "transposed eval": Case(transposed=True, training=False),
    "no norm": Case(norm=False),
    "transposed, relu, stride": Case(transposed=True, affine=False, activation="relu", stride=2),
    "transposed tanh": Case(transposed=True, activation="tanh"),
    "tanh no norm groups": Case(activation="tanh", norm=False, groups=2),
    "transposed none": Case(transposed=True, activation="none", dilation=2, padding=2),
}


@pytest.mark.parametrize("case", DERIVATIVE_CASES)
def test_gradcheck_and_gradgradcheck(case, kernels):
    with use("kernel"):
        check_two_derivatives(case)


def test_gradcheck_and_gradgradcheck_of_the_reference():
    with use("reference"):
        check_two_derivatives("train")


def check_two_derivatives(case: str) -> None:
    case = dataclasses.replace(DERIVATIVE_CASES[case], n=2, c_in=2, c_out=2, size=(3, 3), dtype=FLOAT64, bias=True)
    tensors = away_from_corners(case)
    names = [name for name in NAMES if name in tensors]
    fixed = {name: t for name, t in tensors.items() if name not in names}

    def function(*values):
        return case.op(**dict(zip(names, values, strict=True)), **fixed, **case.options()).y

    values = [tensors[name] for name in names]
    assert gradcheck(function, values, eps=1e-6, atol=1e-6, fast_mode=True)
    assert gradgradcheck(function, values, eps=1e-6, atol=1e-5, fast_mode=True)


@DIRECTIONS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_third_derivative(transposed, training, implementation):
    """Against elementary operations: the third derivative of torch's own train-mode batch_norm is wrong (2.13)."""
    if training and implementation == "reference":
        pytest.xfail("the reference is made of torch's batch_norm")
    case = Case(
        transposed=transposed, n=2, c_in=2, c_out=2, size=(3, 3), dtype=FLOAT64, activation="tanh", training=training
    )
    tensors = case.inputs()
    names = [name for name in NAMES if name in tensors]
    running = tensors["running_mean"], tensors["running_var"]

    def third(forward) -> list[torch.Tensor]:
        values = [tensors[name].detach().requires_grad_() for name in names]
        y = forward(*values)
        for k in range(3):
            derivatives = torch.autograd.grad((y * (1 + 0.1 * k)).sin().sum(), values, create_graph=k < 2)
            y = torch.cat([d.flatten() for d in derivatives])
        return list(derivatives)

    def plain(x, weight, gamma, beta):
        conv = F.conv_transpose2d if transposed else F.conv2d
        z = conv(x, weight, None, 1, 1)
        mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
        mean, var, gamma, beta = (v.view(1, -1, 1, 1) for v in (*((mean, var) if training else running), gamma, beta))
        return torch.tanh(gamma * (z - mean) / (var + 1e-5).sqrt() + beta)

    def ours(x, weight, gamma, beta):
        return case.op(x, weight, None, gamma, beta, *running, **case.options()).y

    for name, a, b in zip(names, third(ours), third(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * b.abs().max().item(), msg=lambda m, n=name: f"{n}: {m}")


@DIRECTIONS
@pytest.mark.parametrize("norm", [True, False])
def test_a_gradient_penalty_through_the_op_reaches_every_weight(transposed, norm, implementation):
    """Losing the second derivative of one input passes gradcheck and trains badly without an error."""
    case = Case(transposed=transposed, bias=True, norm=norm, dtype=FLOAT64, activation="tanh" if norm else "leaky_relu")
    tensors = case.inputs()
    names = [name for name in NAMES if name in tensors and name != "x"]

    def penalty(forward, x):
        (g,) = torch.autograd.grad(forward(x).sum(), x, create_graph=True)
        return ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()

    penalty(lambda x: case.op(**(tensors | {"x": x}), **case.options()).y, tensors["x"]).backward()
    net = case.modules(tensors, FLOAT64)
    x = tensors["x"].detach().clone().requires_grad_()
    penalty(net, x).backward()
    expected = dict(zip(["weight", "bias", "gamma", "beta"], (p.grad for p in net.parameters()), strict=False))
    assert expected["weight"].abs().max() > 1e-6
    for name in names:
        ours = tensors[name].grad
        reference = torch.zeros_like(tensors[name]) if expected[name] is None else expected[name]
        assert_within_oracle(torch.zeros_like(reference) if ours is None else ours, reference, reference, name, scale=1)
    if norm:  # without, a piecewise-linear function's input gradient does not bend with the input
        assert_within_oracle(tensors["x"].grad, x.grad, x.grad, "x")


def opcheck_arguments(case: Case, keep_z: bool) -> tuple:
    t = case.inputs()
    tensors = tuple(t.get(name) for name in (*NAMES, "running_mean", "running_var"))
    pairs = [[v, v] if isinstance(v, int) else list(v) for v in (case.stride, case.padding)]
    pairs += [[0, 0]] if case.transposed else []
    return (*tensors, *pairs, [1, 1], case.groups, case.norm, case.training, keep_z, 1e-5, case.activation, 0.2, False)


@DIRECTIONS
@pytest.mark.parametrize("change", [{"layout": "channels_last"}, {"norm": False, "bias": True}], ids=["norm", "bias"])
def test_opcheck(transposed, change, kernels):
    case = Case(transposed=transposed, n=2, c_in=2, c_out=3, size=(4, 4), stride=2, kernel=4, **change)
    name = case.op.__name__
    arguments = opcheck_arguments(case, keep_z=case.norm)
    torch.library.opcheck(getattr(torch.ops.fastgan, name).default, arguments)
    y, z, mean, invstd = getattr(torch.ops.fastgan, name)(*arguments)
    x, weight, bias, gamma, beta = arguments[:5]
    integers = arguments[7 : 7 + (5 if transposed else 4)]
    need = (True, True, bias is not None, gamma is not None)
    backward = (
        torch.randn_like(y), x, weight, bias, gamma, beta, y.detach(), z, mean, invstd, *integers, case.norm,
        case.training, case.activation, 0.2, *need, 1e-5, False,
    )  # fmt: skip
    torch.library.opcheck(getattr(torch.ops.fastgan, f"{name}_backward").default, backward)


@DIRECTIONS
@pytest.mark.parametrize("change", [{}, {"norm": False, "bias": True}, {"training": False, "activation": "tanh"}])
def test_fullgraph_compile_equals_eager(transposed, change, implementation):
    case = Case(transposed=transposed, **change)
    eager, compiled = case.inputs(), case.inputs()

    def forward(tensors):
        return case.op(**tensors, **case.options()).y

    torch._dynamo.reset()
    forward(eager).square().sum().backward()
    torch.compile(forward, fullgraph=True, backend="aot_eager")(compiled).square().sum().backward()
    for name in set(NAMES) & set(eager):
        assert_rounding_equal(compiled[name].grad, eager[name].grad, name)


def test_inductor(kernels):
    case = Case(n=2, c_in=2, c_out=2, size=(4, 4))
    tensors = case.inputs()
    x = tensors.pop("x")
    expected = case.op(x, **tensors, **case.options()).y
    y = torch.compile(lambda x: case.op(x, **tensors, **case.options()).y, fullgraph=True)(x)
    assert_rounding_equal(y, expected)
    gradients = [torch.autograd.grad(out.sin().sum(), x)[0] for out in (y, expected)]
    assert_rounding_equal(*gradients, "gradient of x")


def test_use_inside_a_compiled_function(kernels):
    x, weight = torch.randn(2, 2, 4, 4), torch.randn(3, 2, 3, 3)

    def forward(x, weight):
        with use("kernel"):
            a = conv2d_bn_act(x, weight).y
        with use("reference"):
            return a, conv2d_bn_act(x, weight).y

    targets = []

    def backend(graph_module, inputs):
        targets.extend(str(node.target) for node in graph_module.graph.nodes)
        return graph_module

    a, b = torch.compile(forward, fullgraph=True, backend=backend)(x, weight)
    assert_rounding_equal(a, b)
    assert sum("fastgan" in t for t in targets) == 1 and any("batch_norm" in t for t in targets)


@DIRECTIONS
def test_autocast_casts_what_a_convolution_casts(transposed, implementation):
    case = Case(transposed=transposed, bias=True)
    tensors = case.inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = case.op(**tensors, **case.options())
        plain = case.modules(tensors, FLOAT32)(tensors["x"])
    assert result.y.dtype == plain.dtype == torch.bfloat16
    assert result.mean.dtype == result.invstd.dtype == FLOAT32
    assert_within_oracle(result.y, case.modules(tensors, FLOAT64)(tensors["x"].double()), plain, "y")
    result.y.float().sum().backward()
    assert all(tensors[name].grad.dtype == FLOAT32 for name in NAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case.op(**{k: v.double() for k, v in tensors.items()}, **case.options()).y.dtype == FLOAT64


@DIRECTIONS
def test_only_y_is_differentiable_and_z_is_kept_where_backward_needs_it(transposed, implementation):
    case = Case(transposed=transposed)
    tensors = case.inputs()
    result = case.op(**tensors, **case.options())
    assert result.y.requires_grad
    assert not any(t.requires_grad for t in (result.z, result.mean, result.invstd))
    assert result.z.shape == result.y.shape
    with torch.no_grad():
        assert case.op(**tensors, **case.options()).z.shape == (0,)
    frozen = {name: t.detach() for name, t in tensors.items()}
    result = case.op(**frozen, **case.options())
    assert result.z.shape == (0,) and not result.y.requires_grad
    one = frozen | {"gamma": frozen["gamma"].clone().requires_grad_()}
    assert case.op(**one, **case.options()).z.shape == result.y.shape


@DIRECTIONS
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
def test_memory_is_kept_for_what_backward_reads(transposed, norm, activation, kernels):
    case = Case(transposed=transposed, norm=norm, activation=activation)
    kept = []
    with use("kernel"), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        result = case.op(**case.inputs(), **case.options())
    assert (result.y.data_ptr() in kept) == (activation == "tanh" or (not norm and activation == "relu"))
    assert (result.z.data_ptr() in kept) == norm or not norm


class AskedFor(torch.utils._python_dispatch.TorchDispatchMode):
    """What the backward ops called in the block were asked for: (x, weight, bias, gamma and beta)."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "bn_act_backward.default" in str(function):
            self.asked.append(args[-6:-2])
        return function(*args, **(kwargs or {}))


@DIRECTIONS
@pytest.mark.parametrize("how", ["grad", "create_graph", "inputs", "leaf behind", "nested"])
@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("beta",), ("x", "gamma"), NAMES], ids="-".join)
def test_gradients_nobody_asks_for_are_not_computed(transposed, how, wanted, kernels):
    """All inputs require a gradient, as in a generator's step through a discriminator that is not frozen."""
    case = Case(transposed=transposed, bias="bias" in wanted, dtype=FLOAT64)
    tensors = case.inputs()
    leaves = {name: tensors[name] for name in wanted}
    if how == "leaf behind":
        tensors |= {name: tensors[name] * 1 for name in NAMES if name in tensors}
    with use("kernel"):
        y = case.op(**tensors, **case.options()).y
    cotangent = torch.randn_like(y)
    everything = [tensors[name] for name in wanted]
    expected = torch.autograd.grad(y, everything, cotangent, retain_graph=True)

    class Nested(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            return t.clone()

        @staticmethod
        def backward(ctx, grad):
            ctx.found = torch.autograd.grad(y, everything, cotangent)
            found.extend(ctx.found)
            return grad

    found = []
    with AskedFor() as listener:
        if how == "inputs":
            y.backward(cotangent, inputs=everything)
            found = [t.grad for t in everything]
        elif how == "nested":
            Nested.apply(torch.ones((), requires_grad=True)).backward()
        else:
            targets = list(leaves.values()) if how == "leaf behind" else everything
            found = torch.autograd.grad(y, targets, cotangent, create_graph=how == "create_graph")
    affine = "gamma" in wanted or "beta" in wanted
    assert listener.asked == [("x" in wanted, "weight" in wanted, "bias" in wanted, affine)]
    for name, a, b in zip(wanted, found, expected, strict=True):
        assert torch.equal(a, b), name


def test_all_gradients_are_computed_where_the_engine_does_not_tell_what_is_asked_for(kernels):
    case = Case(bias=True)
    tensors = case.inputs()
    with use("kernel"):
        y = case.op(**tensors, **case.options()).y
    with AskedFor() as listener:
        y.sum().backward(retain_graph=True)
        direct = y.grad_fn.apply(torch.ones_like(y), None, None, None)
    assert listener.asked == [(True,) * 4] * 2
    for name, grad in zip(NAMES, direct[:5], strict=True):
        assert_rounding_equal(grad, tensors[name].grad, name)


@DIRECTIONS
def test_backward_after_leaving_the_block_follows_forward(transposed, implementation):
    """The choice is made in forward: its graph is run by the same implementation wherever backward is called."""
    case = Case(transposed=transposed)
    tensors, again = case.inputs(), case.inputs()
    y = case.op(**tensors, **case.options()).y
    with use("reference" if implementation == "kernel" else "auto"):
        y.sum().backward()
    case.op(**again, **case.options()).y.sum().backward()
    for name in ("x", "weight", "gamma", "beta"):
        assert torch.equal(tensors[name].grad, again[name].grad)


@DIRECTIONS
def test_the_variance_survives_a_large_mean(transposed, implementation):
    """Mean 1000, spread 1: a variance taken as E[z^2] - mean^2 loses every digit in float32."""
    case = Case(transposed=transposed, kernel=1, padding=0, c_in=1, c_out=1, size=(16, 16), activation="none")
    tensors = case.inputs() | {"weight": torch.ones(1, 1, 1, 1)}
    tensors["x"] = (torch.randn(3, 1, 16, 16) + 1000).requires_grad_()
    result = case.op(**tensors, **case.options())
    y, z, _ = module_results(case, tensors, FLOAT64, torch.ones_like(result.y), None)
    baseline, *_ = module_results(case, tensors, FLOAT32, torch.ones_like(result.y), None)
    assert_within_oracle(result.y, y, baseline, "y", scale=1000 * y.norm().item())  # the input's own rounding
    torch.testing.assert_close(result.invstd.double(), statistics_of(z)[1], rtol=1e-3, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None, 1.0, 0.0])
def test_running_statistics_equal_batch_norm_over_several_steps(momentum, implementation):
    torch.manual_seed(1)
    conv, bn = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=momentum)
    mean, var = torch.zeros(5), torch.ones(5)
    for step in range(1, 5):
        x = torch.randn(step, 3, 4 + step, 5) * step + 2
        bn(conv(x))
        result = conv2d_bn_act(x, conv.weight, conv.bias, bn.weight, bn.bias)
        count = result.y.numel() // 5
        update_running_stats_(
            mean, var, result.mean, result.invstd, count, 1 / step if momentum is None else momentum, bn.eps
        )
        assert_rounding_equal(mean, bn.running_mean, f"running_mean, step {step}")
        assert_rounding_equal(var, bn.running_var, f"running_var, step {step}")
    before = mean.clone(), var.clone()
    update_running_stats_(mean, var, torch.full((5,), 7.0), torch.zeros(5), 0, 0.5, bn.eps)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1])


def test_export_sees_plain_aten():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2, 3, 3))

        def forward(self, x):
            return conv2d_bn_act(x, self.weight, norm=False, activation="relu").y

    net, x = Net().eval(), torch.randn(2, 2, 5, 5)
    with use("reference"):
        program = torch.export.export(net, (x,))
        traced = torch.jit.trace(net, (x,), check_trace=False)
    assert not any("fastgan" in str(node.target) for node in program.graph.nodes)
    assert "fastgan::" not in str(traced.graph)
    assert_rounding_equal(program.module()(x), net(x))
    assert not any("fastgan" in str(node.target) for node in torch.export.export(net, (x,)).graph.nodes), (
        "auto exports aten"
    )
    assert "fastgan::" not in str(torch.jit.trace(net, (x,), check_trace=False).graph), "auto traces aten"


def call(op=conv2d_bn_act, **changes):
    return op(**({"x": torch.randn(2, 4, 5, 5), "weight": torch.randn(4, 4, 3, 3)} | changes))


@pytest.mark.parametrize("op", [conv2d_bn_act, conv_transpose2d_bn_act], ids=["conv", "conv_transpose"])
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"x": [1.0]}, TypeError, "x is list; it takes a tensor"),
        ({"weight": None}, TypeError, "weight is NoneType"),
        ({"bias": 1.0}, TypeError, "bias is float"),
        ({"x": torch.randn(4, 5, 5)}, ValueError, r"x has shape \(4, 5, 5\)"),
        ({"weight": torch.randn(4, 4, 3)}, ValueError, r"weight has shape \(4, 4, 3\)"),
        ({"weight": torch.randn(5, 5, 3, 3)}, ValueError, "x has 4 channels"),
        ({"weight": torch.randn(4, 4, 3, 3).double()}, TypeError, "x torch.float32, weight torch.float64"),
        ({"bias": torch.randn(4).double()}, TypeError, "bias torch.float64"),
        ({"bias": torch.randn(3)}, ValueError, r"bias has shape \(3,\); it takes \(4,\)"),
        ({"gamma": torch.ones(3), "beta": torch.ones(4)}, ValueError, r"gamma has shape \(3,\)"),
        ({"gamma": torch.ones(4)}, ValueError, "gamma and beta go together; got only gamma"),
        ({"beta": torch.ones(4)}, ValueError, "got only beta"),
        ({"norm": False, "gamma": torch.ones(4), "beta": torch.ones(4)}, ValueError, "norm=False takes no gamma, beta"),
        ({"training": False}, ValueError, "takes running_mean and running_var"),
        ({"activation": "gelu"}, ValueError, "activation is 'gelu'; it takes one of none, relu, leaky_relu, tanh"),
        ({"stride": (1, 2, 3)}, ValueError, r"stride is \(1, 2, 3\); it takes an int or a pair"),
        ({"stride": 0}, ValueError, r"stride is \[0, 0\]"),
        ({"padding": "same"}, ValueError, "padding is 'same'"),
        ({"padding": -1}, ValueError, r"padding is \[-1, -1\]"),
        ({"dilation": 1.5}, ValueError, "dilation is 1.5"),
        ({"groups": 0}, ValueError, "groups is 0"),
        ({"groups": 3}, ValueError, "groups is 3; it takes a divisor of 4"),
        ({"x": torch.ones(2, 4, 5, 5).int(), "weight": torch.ones(4, 4, 3, 3).int()}, TypeError, "floating-point"),
    ],
)  # fmt: skip
def test_bad_input_is_named(op, changes, error, words, implementation):
    with pytest.raises(error, match=f"{op.__name__}: .*{words}"):
        call(op, **changes)


def test_bad_sizes_are_named(implementation):
    with pytest.raises(ValueError, match="too small along H for kernel 9"):
        call(weight=torch.randn(4, 4, 9, 3))
    with pytest.raises(ValueError, match=r"output_padding is \[2, 2\]; it takes less than stride \[2, 2\]"):
        call(conv_transpose2d_bn_act, stride=2, output_padding=2)
    with pytest.raises(ValueError, match="more than one value a channel"):
        call(x=torch.randn(1, 4, 3, 3))
    assert call(x=torch.randn(1, 4, 3, 3), norm=False).y.shape == (1, 4, 1, 1)


def test_kernel_raises_with_the_reason_where_none_covers(kernels):
    with use("kernel"):
        with pytest.raises(NotImplementedError, match=r"the batch is empty.*Kernels here: .*conv2d_bn_act.*'auto'"):
            call(x=torch.randn(0, 4, 5, 5))
        with pytest.raises(NotImplementedError, match="negative_slope is -0.1"):
            call(activation="leaky_relu", negative_slope=-0.1)
    y = call(activation="leaky_relu", negative_slope=-0.1).y  # auto takes the reference
    assert y.min() >= 0 or y.isfinite().all()


def test_use_nests_and_survives_exceptions():
    from fastgan.ops import _dispatch

    outside = _dispatch.current()
    with use("reference"):
        with use("auto"):
            assert _dispatch.current() == "auto"
        assert _dispatch.current() == "reference"
        with pytest.raises(KeyError), use("auto"):
            raise KeyError
        assert _dispatch.current() == "reference"
    assert _dispatch.current() == outside
    with pytest.raises(ValueError, match="implementation is 'fast'; it takes one of auto, reference, kernel"):
        use("fast")


def test_function_transforms_take_the_reference():
    x, w = torch.randn(3, 2, 4, 6, 6), torch.randn(5, 4, 3, 3)

    def f(images):
        return conv2d_bn_act(images, w, norm=False, activation="tanh").y

    with use("auto"):
        assert torch.equal(torch.func.vmap(f)(x), torch.stack([f(images) for images in x]))
        _, tangent = torch.func.jvp(f, (x[0],), (x[1],))
    y, z = f(x[0]), torch.nn.functional.conv2d(x[1], w)
    torch.testing.assert_close(tangent, (1 - y**2) * z)


@pytest.mark.skipif(not _library.LOADED, reason="fastgan._C is not built")
def test_an_explicit_kernel_refuses_function_transforms():
    w = torch.randn(5, 4, 3, 3)
    with use("kernel"), pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.vmap(lambda x: conv2d_bn_act(x, w, norm=False).y)(torch.randn(3, 2, 4, 6, 6))


def test_auto_takes_kernels_only_where_passes_are_saved(monkeypatch):
    taken = []
    monkeypatch.setattr("fastgan.ops._conv_bn_act.use_kernel", lambda *a, worthwhile, **k: taken.append(worthwhile))
    x, w, g = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3), torch.ones(6)
    for limit, norm in ((0, True), (0, False), (1 << 20, True)):
        monkeypatch.setattr("fastgan.ops._conv_bn_act.SMALL", limit)
        conv2d_bn_act(x, w, None, *((g, g) if norm else (None, None)), norm=norm)
    assert taken == [True, False, False]


@pytest.mark.parametrize(
    ("limit", "planned", "device", "alone", "activated"),
    [
        (0, "winograd", "cpu", True, True),
        (0, "aten", "cpu", False, False),
        (1000, "winograd", "cpu", False, True),  # x and weight have 728 elements
        (0, "aten", "meta", False, True),  # elsewhere the convolution is ATen's and only an activation is saved
    ],
)
def test_auto_takes_a_convolution_alone_only_by_a_kernel(limit, planned, device, alone, activated, monkeypatch):
    monkeypatch.setattr("fastgan.ops._conv_bn_act.SMALL_ALONE", limit)
    monkeypatch.setattr("fastgan.ops._conv_bn_act.plan", lambda *a: ("aten", planned, "aten"))
    conv = Geometry(False, [1, 1], [0, 0], [0, 0], [1, 1], 1)
    x, w = torch.empty(2, 4, 8, 8, device=device), torch.empty(6, 4, 3, 3, device=device)
    assert [worthwhile(conv, x, w, False, activation) for activation in ("none", "relu")] == [alone, activated]


def test_below_the_size_two_products_of_our_own_are_worth_a_call(monkeypatch):
    """One of three, by Winograd say, costs a whole network more than it gains."""
    conv, x, w = Geometry(False, [1, 1], [1, 1], [0, 0], [1, 1], 1), torch.empty(2, 32, 8, 8), torch.empty(32, 32, 3, 3)
    for plan, worth in (
        (["aten"] * 2 + ["winograd"], False),
        (["aten"] + ["winograd"] * 2, True),
        (["aten"] * 3, False),
    ):
        monkeypatch.setattr("fastgan.ops._conv_bn_act.plan", lambda *_, plan=plan: tuple(plan))
        assert worthwhile(conv, x, w, True, "relu") == worth


@DIRECTIONS
def test_tensors_without_data(transposed):
    x, w = torch.empty(2, 4, 8, 8, device="meta"), torch.empty(4, 4, 3, 3, device="meta")
    op = conv_transpose2d_bn_act if transposed else conv2d_bn_act
    assert op(x, w, padding=1).y.shape == (2, 4, 8, 8)
