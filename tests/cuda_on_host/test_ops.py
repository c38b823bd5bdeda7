"""The CUDA implementations of the ops, torch layer included, on CPU tensors: against the references in float64, with
every memory order a caller may bring, and with what they must refuse."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics import SUM_ULPS, assert_within_oracle

import fastgan.ops
from fastgan.ops import _penalty_ops
from fastgan.ops.bn_act import (
    bn_act_backward_elemt_reference,
    bn_act_backward_reduce_reference,
    bn_act_reference,
    bn_stats_reference,
)

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def wide(*values):
    """The tensors among ``values`` in float64: what turns a baseline's arguments into the oracle's."""
    return [t.double() if isinstance(t, torch.Tensor) else t for t in values]


LAYERS = {
    "conv2d_bn_act": ((3, 6, 9, 8), (10, 3, 3, 3), dict(stride=(2, 1), padding=(1, 0), groups=2)),
    "conv_transpose2d_bn_act": (
        (3, 6, 5, 4), (6, 5, 4, 4), dict(stride=(2, 2), padding=(1, 1), output_padding=(1, 0), groups=2),
    ),
}  # fmt: skip
MODES = {"train": (True, True), "eval": (True, False), "no norm": (False, True)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_conv_bn_act(ops, name, mode, activation, memory_format, dtype):
    x_shape, w_shape, geometry = LAYERS[name]
    norm, training = MODES[mode]
    x = torch.randn(x_shape).to(dtype, memory_format=memory_format)
    weight, bias = torch.randn(w_shape).to(dtype), torch.randn(10).to(dtype)
    gamma, beta, mean, var = torch.randn(10) + 2, torch.randn(10), torch.randn(10), torch.rand(10) + 0.5
    affine = [gamma, beta] if norm else [None, None]
    running = [mean, var] if norm else [None, None]
    transposed = "transpose" in name
    output_padding = [geometry["output_padding"]] if transposed else []
    integers = [geometry["stride"], geometry["padding"], *output_padding, (1, 1), 2]
    y, z, mean, invstd = getattr(ops, name)(
        x, weight, bias, *affine, *running, *integers, norm, training, True, 1e-5, activation, 0.2, False
    )
    grad_y = torch.randn(y.shape).to(dtype)  # another memory order than y's where that is channels-last
    grads = getattr(ops, f"{name}_backward")(
        grad_y, x, weight, bias, *affine, y, z, mean, invstd, *integers, norm, training, activation, 0.2, True, True,
        True, norm, 1e-5, False,
    )  # fmt: skip

    def reference(convert):
        leaves = [None if t is None else t.requires_grad_() for t in convert(x, weight, bias, *affine)]
        with fastgan.ops.use("reference"):
            result = getattr(fastgan.ops, name)(
                *leaves, *convert(*running), **geometry, norm=norm, training=training, activation=activation
            )
        (cotangent,) = convert(grad_y)
        return result, torch.autograd.grad(result.y, [t for t in leaves if t is not None], cotangent)

    oracle, expected = reference(wide)
    baseline, expected_baseline = reference(lambda *tensors: [t if t is None else t.clone() for t in tensors])
    ulps = SUM_ULPS if norm and training else 1
    assert_within_oracle(y, oracle.y, baseline.y, "y", ulps=ulps)
    if norm:
        assert_within_oracle(z, oracle.z, baseline.z, "z")
        assert_within_oracle(mean, oracle.mean, baseline.mean, "mean", dtype=dtype, ulps=ulps)
        assert_within_oracle(invstd, oracle.invstd, baseline.invstd, "invstd", dtype=dtype, ulps=ulps)
    else:
        assert z.numel() == mean.numel() == invstd.numel() == 0
    if dtype == torch.float32:  # in 16 bits an activation's mask may flip where u is near 0
        for i, (actual, *wanted) in enumerate(zip(grads, expected, expected_baseline, strict=False)):
            if norm and training and i == 2:  # a bias before batch statistics: exactly zero
                assert not actual.any()
                continue
            # Of vectors: a sum over the batch of grad_y, for gamma times xhat. An ulp of the largest xhat in each term,
            # which is what z brings along, adds up to an ulp of the terms' L2 norm.
            scale = grad_y.double().norm().item() if actual.dim() == 1 else None
            if i == 3:
                xhat = (oracle.z - oracle.mean.view(-1, 1, 1)) * oracle.invstd.view(-1, 1, 1)
                scale *= xhat.abs().max().item()
            assert_within_oracle(actual, *wanted, f"gradient {i}", scale, ulps=ulps)


def test_conv_bn_act_without_z_overwrites_it(ops):
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    rest = ([1, 1], [1, 1], [1, 1], 1, True, True)
    kept = ops.conv2d_bn_act(x, weight, *[None] * 5, *rest, True, 1e-5, "relu", 0.0, False)
    not_kept = ops.conv2d_bn_act(x, weight, *[None] * 5, *rest, False, 1e-5, "relu", 0.0, False)
    assert torch.equal(kept[0], not_kept[0]) and not_kept[1].shape == (0,)


def strange(shape: tuple[int, ...], kind: str, dtype=torch.float32) -> torch.Tensor:
    """A random tensor of ``shape`` stored in an unusual way."""
    if kind == "sliced":
        return torch.randn(*shape[:-1], shape[-1] * 2).to(dtype)[..., ::2]
    if kind == "transposed":
        return torch.randn(shape[::-1]).to(dtype).permute(*reversed(range(len(shape))))
    if kind == "expanded":
        return torch.randn(1, *shape[1:]).to(dtype).expand(shape)
    if kind == "off its alignment":
        return torch.randn(math.prod(shape) + 1).to(dtype)[1:].view(shape)
    return torch.randn(shape).to(dtype).contiguous(memory_format=FORMATS[kind])


KINDS = ["nchw", "nhwc", "sliced", "transposed", "expanded", "off its alignment"]


@pytest.mark.parametrize(("z_kind", "grad_kind"), [*itertools.product(KINDS, ["nchw"]), ("nhwc", "expanded")])
def test_bn_passes_take_any_memory_order(ops, z_kind, grad_kind):
    shape = (4, 8, 6, 6)
    z, grad_y = strange(shape, z_kind), strange(shape, grad_kind)
    mean, var = ops.bn_stats(z)
    invstd, gamma, beta = (var + 1e-5).rsqrt(), torch.randn(8).bfloat16(), torch.randn(8)
    affine = (mean, invstd, gamma, beta, "leaky_relu", 0.2)
    y = ops.bn_act(z, *affine)
    sums = ops.bn_act_backward_reduce(grad_y, y, z, *affine)
    means = [s / 144 for s in sums]
    grad_z = ops.bn_act_backward_elemt(grad_y, y, z, *affine[:4], *means, *affine[4:])

    assert y.stride() == torch.empty_like(z).stride() == grad_z.stride()
    root_mean_squares = z.double().square().mean((0, 2, 3)).sqrt()  # the size of what cancels in a mean near 0
    for actual, formula, arguments, scale, ulps in (
        ((mean, var), bn_stats_reference, (z,), root_mean_squares, SUM_ULPS),
        ((y,), lambda *a: (bn_act_reference(*a),), (z, *affine), None, 1),
        (sums, bn_act_backward_reduce_reference, (grad_y, z, *affine), grad_y.double().norm().item(), 1),
        (
            (grad_z,),
            lambda *a: (bn_act_backward_elemt_reference(*a),),
            (grad_y, z, *affine[:4], *means, *affine[4:]),
            None,
            1,
        ),
    ):
        for a, oracle, baseline in zip(actual, formula(*wide(*arguments)), formula(*arguments), strict=True):
            assert_within_oracle(a, oracle, baseline, scale=scale, ulps=ulps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16", "float16"])
def test_penalty_inner_ops_take_any_memory_order(ops, kind, dtype):
    shape = (3, 4, 5, 6)
    real, fake, epsilon = strange(shape, kind, dtype), torch.randn(shape).to(dtype), torch.rand(3).to(dtype)
    out = ops.interpolate(real, fake, epsilon)
    assert out.stride() == torch.empty_like(real).stride()
    masked = ops.leaky_mask_mul(fake, real, 0.2)
    value, norms, grad_penalty = ops.penalty(real, 10.0, 1.0, False)
    assert value.shape == ()

    def reference(real, fake, epsilon):
        e = _penalty_ops.per_sample(epsilon, real)
        leaf = real.detach().requires_grad_()
        value, norms = _penalty_ops._penalty_reference(leaf, 10.0, 1.0, False)
        (grad,) = torch.autograd.grad(value, leaf)
        mask = torch.where(real > 0, 1.0, 0.2).to(real.dtype)
        return e * real + (1 - e) * fake, fake * mask, value.detach(), norms.detach(), grad

    results = (out, masked, value, norms, grad_penalty)
    names = ("interpolate", "leaky_mask_mul", "penalty", "norms", "grad_penalty")
    arguments = (real, fake, epsilon)
    oracles = dict(zip(names, reference(*wide(*arguments)), strict=True))
    # An ulp of a norm moves the square of its excess by 2 norm / excess ulps.
    amplified = (1 + 2 * (oracles["norms"] / (oracles["norms"] - 1)).abs().max()) * oracles["penalty"]
    scales = {"penalty": amplified.item()}
    for name, actual, baseline in zip(names, results, reference(*arguments), strict=True):
        assert_within_oracle(actual, oracles[name], baseline, name, scales.get(name))


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16", "float16"])
def test_running_statistics(ops, dtype):
    mean, invstd = torch.randn(9), torch.rand(9) + 0.5
    before = torch.randn(9).to(dtype), torch.rand(9).to(dtype)
    running = [t.clone() for t in before]
    ops.update_running_stats_(*running, mean.bfloat16(), invstd[:9], 5, 0.3, 1e-5)
    with fastgan.ops.use("reference"):
        oracle, baseline = [t.double() for t in before], [t.clone() for t in before]
        for expected in (oracle, baseline):
            converted = [t.to(expected[0].dtype) for t in (mean.bfloat16(), invstd)]
            fastgan.ops.update_running_stats_(*expected, *converted, 5, 0.3, 1e-5)
    for name, *values in zip(("running_mean", "running_var"), running, oracle, baseline, strict=True):
        assert_within_oracle(*values, name)


def test_penalty_of_nothing(ops):
    value, norms, grad = ops.penalty(torch.zeros(0, 3), 10.0, 1.0, False)
    assert value.isnan() and norms.shape == (0,) and grad.shape == (0, 3)
    value, norms, _ = ops.penalty(torch.zeros(2, 0), 10.0, 1.0, False)
    assert value == 10.0 and torch.equal(norms, torch.zeros(2))
    assert ops.penalty(torch.zeros(2, 0), 10.0, 1.0, True)[0] == 0


def test_tensor_lists_of_several_dtypes(ops):
    shapes = [(5,), (7, 3), (0,), (2, 4), (3,)]
    dtypes = [torch.float32, torch.bfloat16, torch.float32, torch.float32, torch.float16]
    weights = [torch.randn(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    weights[3] = weights[3].t()
    expected = [w.clamp(-0.1, 0.1) for w in weights]
    copies = [w.clone() for w in weights]
    ops.clip_weights_(weights, 0.1)
    assert all(torch.equal(w, e) for w, e in zip(weights, expected, strict=True))

    grads, states = [torch.randn_like(w) for w in copies], [torch.zeros_like(w) for w in copies]
    leaves = [w.clone().float().requires_grad_() for w in copies]
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = grad.float()
    torch.optim.RMSprop(leaves, lr=0.01, foreach=False).step()
    ops.rmsprop_clip_(copies, grads, states, [], [], None, 0.01, 0.99, 1e-8, 0.0, 0.0, False, False, -1.0)
    for w, leaf in zip(copies, leaves, strict=True):
        torch.testing.assert_close(w.float(), leaf.detach(), rtol=1e-2 if w.dtype != torch.float32 else 1e-6, atol=1e-6)


def test_refusals_name_the_argument(ops):
    z, c = torch.randn(2, 3, 4, 4), torch.randn(3)
    refused = [
        ("z is float64", lambda: ops.bn_stats(z.double())),
        (r"z has shape \(0, 3, 4, 4\)", lambda: ops.bn_stats(z[:0])),
        (r"mean has shape \(2,\); it takes \(3,\)", lambda: ops.bn_act(z, c[:2], c, c, c, "relu", 0.0)),
        (r"gamma has shape \(1,\)", lambda: ops.bn_act(z, c, c, c[:1], c, "relu", 0.0)),
        ("activation is 'gelu'", lambda: ops.bn_act(z, c, c, c, c, "gelu", 0.0)),
        (
            r"grad_y is float32 \(1, 3, 4, 4\)",
            lambda: ops.bn_act_backward_reduce(z[:1], z, z, c, c, None, None, "relu", 0.0),
        ),
        (r"epsilon has shape \(3,\); it takes \(2,\)", lambda: ops.interpolate(z, z, c)),
        (r"running_mean has shape \(2, 3, 4, 4\)", lambda: ops.update_running_stats_(z, z, c, c, 5, 0.1, 1e-5)),
        (
            r"running_var is float32 \(2,\); it takes running_mean's",
            lambda: ops.update_running_stats_(c, c[:2], c, c, 5, 0.1, 1e-5),
        ),
        (r"mean has shape \(2,\); it takes \(3,\)", lambda: ops.update_running_stats_(c, c, c[:2], c, 5, 0.1, 1e-5)),
        (
            "running_mean or running_var has gaps",
            lambda: ops.update_running_stats_(torch.randn(6)[::2], c, c, c, 5, 0.1, 1e-5),
        ),
        ("fake is bfloat16", lambda: ops.interpolate(z, z.bfloat16(), c[:2])),
        (r"y is float32 \(3,\)", lambda: ops.leaky_mask_mul(z, c, 0.2)),
        ("clip_value is -1", lambda: ops.clip_weights_([c], -1.0)),
        (r"params\[0\] has gaps", lambda: ops.clip_weights_([torch.randn(6)[::2]], 0.1)),
        (
            "grads has 0 tensors; it takes 1",
            lambda: ops.rmsprop_clip_([c], [], [c], [], [], None, 0.1, 0.9, 1e-8, 0.0, 0.0, False, False, -1.0),
        ),
        (
            r"square_avgs\[0\] is float32 \(2,\)",
            lambda: ops.rmsprop_clip_([c], [c], [c[:2]], [], [], None, 0.1, 0.9, 1e-8, 0.0, 0.0, False, False, -1.0),
        ),
    ]
    for message, call in refused:
        with pytest.raises(RuntimeError, match=message):
            call()


def test_a_learning_rate_in_memory_is_the_one_that_counts(ops):
    for dtype in (torch.float32, torch.float64):
        w, g, s = torch.ones(3), torch.ones(3), torch.zeros(3)
        lr = torch.tensor(0.5, dtype=dtype)
        ops.rmsprop_clip_([w], [g], [s], [], [], lr, 7.0, 0.75, 1e-8, 0.0, 0.0, False, False, -1.0)
        assert torch.allclose(w, torch.zeros(3), atol=1e-6)  # 1 - 0.5 * 1 / sqrt(0.25)


def test_mixed_devices_are_refused_in_one_sentence(ops):
    """Beside a CPU tensor, which stands for a CUDA tensor here, one of the meta device is on another device."""
    z, c = torch.randn(2, 3, 4, 4), torch.randn(3)
    far = {name: t.to("meta") for name, t in (("z", z), ("c", c))}
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def call(name, *arguments):
        return getattr(ops, name).default.redispatch(cuda, *arguments)

    options = (0.1, 0.9, 1e-8, 0.0, 0.0, False, False, -1.0)
    refused = [
        ("mean is on another device", "bn_act", (z, far["c"], c, c, c, "relu", 0.0)),
        ("gamma is on another device", "bn_act", (z, c, c, far["c"], c, "relu", 0.0)),
        ("grad_y is .* on the same device", "bn_act_backward_reduce", (far["z"], z, z, c, c, None, None, "relu", 0.0)),
        ("fake is .* on the same device", "interpolate", (z, far["z"], c[:2])),
        ("epsilon is on another device", "interpolate", (z, z, far["c"][:2])),
        ("y is .* on the same device", "leaky_mask_mul", (z, far["z"], 0.2)),
        ("z is on another device", "bn_stats", (far["z"],)),
        ("running_var is .* on the same device", "update_running_stats_", (c, far["c"], c, c, 5, 0.1, 1e-5)),
        ("invstd is on another device", "update_running_stats_", (c, c, c, far["c"], 5, 0.1, 1e-5)),
        (r"params\[1\] is on another device than params\[0\]", "clip_weights_", ([c, far["c"]], 0.1)),
        (r"grads\[0\] is .* on the same device", "rmsprop_clip_", ([c], [far["c"]], [c], [], [], None, *options)),
        ("lr_tensor has shape .* on another device", "rmsprop_clip_", ([c], [c], [c], [], [], far["c"][0], *options)),
    ]
    for message, name, arguments in refused:
        with pytest.raises(RuntimeError, match=message) as raised:
            call(name, *arguments)
        assert len(str(raised.value).splitlines()[0]) < 200
