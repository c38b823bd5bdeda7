"""Every kernel of csrc/cuda, run on the CPU by the executor, against the formulas of its file in float64.

The shapes are the awkward ones: one element, odd planes, channels that fill no vector, planes that do, several splits
of a reduction, tensors that start off a 16-byte boundary. Outputs lie between guard elements that must survive.
"""

from __future__ import annotations

import math

import pytest
import torch

from .structs import ACTIVATIONS, DTYPES, ORDERS, BnChannels, ImageShape

ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}  # half an ulp of 1
FLOAT_ROUNDING = ROUNDING[torch.float32]
GUARD, GUARD_VALUE = 16, 777.0
SLOPE, EPS = 0.2, 1e-5

# (N, C, S, aligned): C % 8 and S % 8 decide between vectors and single elements, N * S between one split and several.
IMAGES = [
    (1, 1, 1, True),
    (2, 3, 35, True),
    (3, 8, 16, True),
    (3, 8, 16, False),
    (5, 40, 1, True),
    (4, 33, 4, True),
    (7, 72, 24, True),
    (3, 2, 4104, True),
]
LAYOUTS = ["channels_first", "channels_last"]


@pytest.fixture(params=ORDERS)
def order(request, host_kernels) -> None:
    """For kernels whose threads talk to each other: the test runs in every order; for others, any_order."""
    host_kernels.set_order(request.param)


class Guarded:
    """Memory for ``numel`` elements, NaN, with guards around it; ``check`` fails where a kernel wrote past an end."""

    def __init__(self, numel: int, dtype: torch.dtype, aligned: bool = True) -> None:
        start = GUARD if aligned else GUARD + 1
        self.memory = torch.full((GUARD * 2 + 1 + numel,), GUARD_VALUE, dtype=dtype)
        self.tensor = self.memory[start : start + numel].fill_(math.nan)
        self.outside = [self.memory[:start], self.memory[start + numel :]]

    def check(self) -> torch.Tensor:
        guard = torch.tensor(GUARD_VALUE).to(self.memory.dtype)
        assert all((part == guard).all() for part in self.outside), "written outside the tensor"
        assert not self.tensor.isnan().any(), "elements left unwritten"
        return self.tensor


def random_tensor(shape, dtype, seed, aligned=True, scale=1.0, shift=0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + shift
    memory = torch.empty(values.numel() + 1, dtype=dtype)
    tensor = memory[: values.numel()] if aligned else memory[1:]
    return tensor.copy_(values.flatten()).view(shape)


class Image:
    """A random (N, C, S) tensor stored in `layout`; ``view`` brings a flat tensor of that order back to (N, C, S)."""

    def __init__(self, case, layout: str, dtype: torch.dtype) -> None:
        self.n, self.c, self.s, self.aligned = case
        self.layout, self.dtype = layout, dtype
        self.shape = ImageShape(self.n, self.c, self.s, LAYOUTS.index(layout))
        self.numel = self.n * self.c * self.s

    def random(self, seed: int, **options) -> torch.Tensor:
        return random_tensor((self.numel,), self.dtype, seed, self.aligned, **options)

    def out(self) -> Guarded:
        return Guarded(self.numel, self.dtype, self.aligned)

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        flat = flat.double()
        if self.layout == "channels_first":
            return flat.view(self.n, self.c, self.s)
        return flat.view(self.n, self.s, self.c).transpose(1, 2)


def assert_close(
    actual: torch.Tensor, expected: torch.Tensor, roundings: float, dtype, scale: float | None = None
) -> None:
    """|actual - expected| <= roundings * half ulp, relative to ``scale`` (default: the largest expected magnitude)."""
    scale = scale if scale is not None else max(expected.abs().max().item(), 1e-30)
    error = (actual.double() - expected).abs().max().item()
    assert error <= roundings * ROUNDING[dtype] * scale, f"error {error:.3g} at scale {scale:.3g}"


def act(u: torch.Tensor, name: str) -> torch.Tensor:
    return {
        "none": lambda: u,
        "relu": lambda: u.clamp_min(0),
        "leaky_relu": lambda: torch.where(u > 0, u, SLOPE * u),
        "tanh": lambda: u.tanh(),
    }[name]()


def channels_of(image: Image, affine_dtype: torch.dtype):
    """(BnChannels, the tensors behind it in float64 as (C, 1))."""
    vectors = {
        "mean": random_tensor((image.c,), torch.float32, 11),
        "invstd": random_tensor((image.c,), torch.float32, 12).abs() + 0.5,
        "gamma": random_tensor((image.c,), affine_dtype, 13) + 1,
        "beta": random_tensor((image.c,), affine_dtype, 14),
    }
    channels = BnChannels(**{k: v.data_ptr() for k, v in vectors.items()}, affine_dtype=DTYPES[affine_dtype])
    channels.alive = vectors
    return channels, {k: v.double()[:, None] for k, v in vectors.items()}


images = pytest.mark.parametrize("case", IMAGES, ids=lambda case: "x".join(map(str, case)))
layouts = pytest.mark.parametrize("layout", LAYOUTS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@layouts
@dtypes
@images
def test_bn_stats(host_kernels, order, case, layout, dtype):
    image = Image(case, layout, dtype)
    z = image.random(1, shift=3.0)
    mean, var, invstd, of_var = (Guarded(image.c, torch.float32) for _ in range(4))
    host_kernels.call(
        "bn_stats", z=z, shape=image.shape, dtype=DTYPES[dtype], mean=mean.tensor, var=var.tensor,
        invstd=invstd.tensor, eps=EPS,
    )  # fmt: skip
    host_kernels.call("inverse_std", var=var.tensor, invstd=of_var.tensor, channels=image.c, eps=EPS)
    expected_var, expected_mean = torch.var_mean(image.view(z), (0, 2), correction=0)
    assert_close(mean.check(), expected_mean, 8, torch.float32)
    assert_close(var.check(), expected_var, 16, torch.float32, scale=expected_var.max().item() + 1e-6)
    assert_close(invstd.check(), (var.tensor.double() + EPS).rsqrt(), 6, torch.float32)
    assert torch.equal(of_var.check(), invstd.tensor)


@dtypes
@pytest.mark.parametrize("channels", [1, 33, 600])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_stats(host_kernels, any_order, channels, dtype, momentum):
    mean, invstd = (random_tensor((channels,), torch.float32, seed) for seed in (1, 2))
    invstd = invstd.abs() + 0.5
    before = [random_tensor((channels,), dtype, 3), random_tensor((channels,), dtype, 4).abs()]
    running = [Guarded(channels, dtype, aligned=False) for _ in before]
    for memory, values in zip(running, before, strict=True):
        memory.tensor.copy_(values)
    host_kernels.call(
        "running_stats", mean=mean, invstd=invstd, running_mean=running[0].tensor, running_var=running[1].tensor,
        channels=channels, dtype=DTYPES[dtype], momentum=momentum, correction=1.25, eps=EPS,
    )  # fmt: skip
    batch = [mean.double(), 1.25 * (invstd.double() ** -2 - EPS)]
    for memory, old, new in zip(running, before, batch, strict=True):
        assert_close(memory.check(), (1 - momentum) * old.double() + momentum * new, 4, dtype)
        assert momentum != 0 or torch.equal(memory.tensor, old)


@layouts
def test_bn_stats_of_data_far_from_zero(host_kernels, layout):
    """Mean 1e4, deviation 1: E[z^2] - mean^2 in float would lose the variance altogether (1e8 * 2^-24 = 6)."""
    image = Image((3, 4, 1024, True), layout, torch.float32)
    z = image.random(2, shift=1e4)
    mean, var = Guarded(4, torch.float32), Guarded(4, torch.float32)
    host_kernels.call("bn_stats", z=z, shape=image.shape, dtype=0, mean=mean.tensor, var=var.tensor)
    expected = image.view(z).var((0, 2), correction=0)
    assert_close(var.check(), expected, 1e-4 / FLOAT_ROUNDING, torch.float32)


@layouts
def test_bn_stats_of_data_whose_pivot_is_an_outlier(host_kernels, layout):
    """The pivot is an average of what is read first, the tensor's end: there it lies 60 deviations off the rest."""
    image = Image((40, 3, 64, True), layout, torch.float32)
    z = image.random(26)
    z[-3 * 64 :] += 60  # the last sample, in either layout
    mean, var = Guarded(3, torch.float32), Guarded(3, torch.float32)
    host_kernels.call("bn_stats", z=z, shape=image.shape, dtype=0, mean=mean.tensor, var=var.tensor)
    expected_var, expected_mean = torch.var_mean(image.view(z), (0, 2), correction=0)
    lost = 1 + ((image.view(z) - expected_mean[:, None]) ** 2).amax((0, 2)) / expected_var  # bn_stats.cu, numerics
    assert lost.min() > 30
    assert_close(mean.check(), expected_mean, 8, torch.float32, scale=60.0)
    assert_close(var.check(), expected_var, 16 * lost.max().item(), torch.float32)


@layouts
def test_reductions_do_not_depend_on_the_thread_order(host_kernels, layout):
    """The same bits from every order: the sums are taken in an order of their own."""
    image = Image((3, 2, 4104, True), layout, torch.float32)
    z, results = image.random(3), []
    for order in ORDERS:
        host_kernels.set_order(order)
        mean, var = Guarded(2, torch.float32), Guarded(2, torch.float32)
        host_kernels.call("bn_stats", z=z, shape=image.shape, dtype=0, mean=mean.tensor, var=var.tensor)
        results.append(torch.stack([mean.check(), var.check()]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


# A reduction aims at 40 blocks here: 40 splits of two tiles; two channels' blocks of three tiles, the last one short.
MANY_TILES = [(1, 2, 40000, "channels_last"), (1, 20, 4099, "channels_first"), (20000, 20, 2, "channels_last")]


@pytest.mark.parametrize(("n", "c", "s", "layout"), MANY_TILES)
def test_reductions_of_many_tiles(host_kernels, any_order, n, c, s, layout):
    """Every element is counted once, whichever tile and split it falls into: the sums of whole numbers are exact."""
    image = Image((n, c, s, True), layout, torch.float32)
    z, grad_y = image.random(24, scale=3.0, shift=5.0).round_(), image.random(25, scale=2.0).round_()
    mean, var, sum_g, sum_g_xhat = (Guarded(c, torch.float32) for _ in range(4))
    host_kernels.call("bn_stats", z=z, shape=image.shape, dtype=0, mean=mean.tensor, var=var.tensor)
    expected_var, expected_mean = torch.var_mean(image.view(z), (0, 2), correction=0)
    assert_close(mean.check(), expected_mean, 8, torch.float32)
    assert_close(var.check(), expected_var, 16, torch.float32)
    host_kernels.call(
        "bn_act_backward_reduce", grad_y=grad_y, y=z, z=z, shape=image.shape, dtype=0, channels=BnChannels(),
        activation=ACTIVATIONS["relu"], sum_g=sum_g.tensor, sum_g_xhat=sum_g_xhat.tensor,
    )  # fmt: skip
    g = image.view(grad_y) * (image.view(z) > 0)
    assert torch.equal(sum_g.check().double(), g.sum((0, 2)))
    assert torch.equal(sum_g_xhat.check().double(), (g * image.view(z)).sum((0, 2)))
    y = image.out()
    host_kernels.call("bn_act", z=z, y=y.tensor, shape=image.shape, dtype=0, channels=BnChannels())
    assert torch.equal(y.check(), z)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@layouts
@dtypes
@images
def test_bn_act(host_kernels, any_order, case, layout, dtype, activation):
    image = Image(case, layout, dtype)
    z, y = image.random(4), image.out()
    channels, v = channels_of(image, torch.float32 if activation == "relu" else dtype)
    host_kernels.call(
        "bn_act", z=z, y=y.tensor, shape=image.shape, dtype=DTYPES[dtype], channels=channels,
        activation=ACTIVATIONS[activation], negative_slope=SLOPE,
    )  # fmt: skip
    u = (image.view(z) - v["mean"]) * v["invstd"] * v["gamma"] + v["beta"]
    assert_close(image.view(y.check()), act(u, activation), 4, dtype)


def test_bn_act_in_place_without_statistics_adds_the_bias(host_kernels):
    """y = act(z + bias) over z itself: what a convolution without normalisation ends with. NaN stays NaN."""
    image = Image((2, 5, 9, True), "channels_first", torch.float32)
    z, bias = image.random(5), random_tensor((5,), torch.float32, 6)
    z[7] = math.nan
    expected = act(image.view(z) + bias.double()[:, None], "relu")
    host_kernels.call(
        "bn_act", z=z, y=z, shape=image.shape, dtype=0, channels=BnChannels(beta=bias.data_ptr()),
        activation=ACTIVATIONS["relu"],
    )  # fmt: skip
    assert image.view(z).isnan().sum() == 1
    torch.testing.assert_close(image.view(z), expected, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@layouts
@dtypes
@images
def test_bn_act_backward(host_kernels, order, case, layout, dtype, activation):
    image = Image(case, layout, dtype)
    z, grad_y, y = image.random(7), image.random(8), image.out().tensor
    channels, v = channels_of(image, dtype)
    common = dict(
        shape=image.shape, dtype=DTYPES[dtype], channels=channels, activation=ACTIVATIONS[activation],
        negative_slope=SLOPE,
    )  # fmt: skip
    host_kernels.call("bn_act", z=z, y=y, **common)
    sum_g, sum_g_xhat, grad_z = Guarded(image.c, torch.float32), Guarded(image.c, torch.float32), image.out()
    host_kernels.call(
        "bn_act_backward_reduce", grad_y=grad_y, y=y, z=z, sum_g=sum_g.tensor, sum_g_xhat=sum_g_xhat.tensor, **common
    )
    count = image.n * image.s
    host_kernels.call(
        "bn_act_backward_elemt", grad_y=grad_y, y=y, z=z, g=sum_g.check(), g_xhat=sum_g_xhat.check(),
        sum_weight=1 / count, grad_z=grad_z.tensor, **common,
    )  # fmt: skip

    xhat = (image.view(z) - v["mean"]) * v["invstd"]
    u = xhat * v["gamma"] + v["beta"]
    derivative = {
        "none": torch.ones_like(u),
        "relu": (u > 0).double(),
        "leaky_relu": torch.where(u > 0, 1.0, SLOPE),
        "tanh": 1 - image.view(y) ** 2,
    }[activation]
    g = image.view(grad_y) * derivative
    expected_g, expected_g_xhat = g.sum((0, 2)), (g * xhat).sum((0, 2))
    # a sum of `count` terms in blocks of at most a few dozen a thread: a handful of roundings of the sum of magnitudes
    assert_close(sum_g.tensor, expected_g, 16, torch.float32, scale=g.abs().sum((0, 2)).max().item())
    assert_close(sum_g_xhat.tensor, expected_g_xhat, 16, torch.float32, scale=(g * xhat).abs().sum((0, 2)).max().item())
    mean_g, mean_g_xhat = expected_g[:, None] / count, expected_g_xhat[:, None] / count
    expected = v["gamma"] * v["invstd"] * (g - mean_g - xhat * mean_g_xhat)
    largest = (v["gamma"] * v["invstd"] * (g.abs() + mean_g.abs() + (xhat * mean_g_xhat).abs())).abs().max().item()
    assert_close(image.view(grad_z.check()), expected, 8, dtype, scale=largest)


def test_bn_act_backward_without_statistics_masks_by_the_output(host_kernels):
    """No normalisation: y stands for z, and grad_z = grad_y * act'(y)."""
    image = Image((2, 3, 10, True), "channels_first", torch.float32)
    y, grad_y, grad_z = image.random(9), image.random(10), image.out()
    host_kernels.call(
        "bn_act_backward_elemt", grad_y=grad_y, y=y, z=y, shape=image.shape, dtype=0, channels=BnChannels(),
        activation=ACTIVATIONS["leaky_relu"], negative_slope=SLOPE, grad_z=grad_z.tensor,
    )  # fmt: skip
    assert torch.equal(grad_z.check(), torch.where(y > 0, grad_y, grad_y * torch.tensor(SLOPE)))


SAMPLES = [(1, 1, True), (5, 2, True), (3, 35, True), (4, 64, True), (4, 64, False), (2, 8200, True), (300, 3, True)]
samples = pytest.mark.parametrize("case", SAMPLES, ids=lambda case: "x".join(map(str, case)))


@dtypes
@samples
def test_interpolate(host_kernels, any_order, case, dtype):
    n, d, aligned = case
    real, fake = random_tensor((n, d), dtype, 15, aligned), random_tensor((n, d), dtype, 16, aligned)
    epsilon = torch.rand(n, generator=torch.Generator().manual_seed(17)).to(dtype)
    out = Guarded(n * d, dtype, aligned)
    host_kernels.call(
        "interpolate", real=real, fake=fake, epsilon=epsilon, out=out.tensor, samples=n, elements=d,
        dtype=DTYPES[dtype], epsilon_dtype=DTYPES[dtype],
    )  # fmt: skip
    e = epsilon.double()[:, None]
    assert_close(out.check().view(n, d), e * real.double() + (1 - e) * fake.double(), 4, dtype)


@pytest.mark.parametrize("one_sided", [False, True])
@dtypes
@samples
def test_penalty(host_kernels, order, case, dtype, one_sided):
    n, d, aligned = case
    grad = random_tensor((n, d), dtype, 18, aligned, scale=1 / math.sqrt(d))
    grad[n // 2] = 0
    grad_penalty, penalty, norms = Guarded(n * d, dtype, aligned), Guarded(1, torch.float32), Guarded(n, torch.float32)
    host_kernels.call(
        "penalty", grad=grad, grad_penalty=grad_penalty.tensor, penalty=penalty.tensor, norms=norms.tensor, samples=n,
        elements=d, dtype=DTYPES[dtype], weight=10.0, target=1.0, one_sided=one_sided,
    )  # fmt: skip
    expected_norms = grad.double().norm(dim=1)
    excess = expected_norms - 1
    excess = excess.clamp_min(0) if one_sided else excess
    factor = torch.where(expected_norms > 0, 20 / n * excess / expected_norms, 0.0)
    assert_close(norms.check(), expected_norms, 16, torch.float32)
    # the excess carries the rounding of the norm, which is near 1
    assert_close(penalty.check(), 10 * excess.square().mean(), 64, torch.float32, scale=10.0)
    largest = max((20 / n * grad.double().abs()).max().item(), 1e-30)
    assert_close(grad_penalty.check().view(n, d), factor[:, None] * grad.double(), 32, dtype, scale=largest)


@dtypes
@pytest.mark.parametrize(("numel", "aligned"), [(1, True), (77, True), (4096, True), (4099, False)])
def test_leaky_mask_mul(host_kernels, any_order, dtype, numel, aligned):
    t, y = random_tensor((numel,), dtype, 19, aligned), random_tensor((numel,), dtype, 20, aligned)
    y[0] = 0
    out = Guarded(numel, dtype, aligned)
    host_kernels.call(
        "leaky_mask_mul", t=t, y=y, out=out.tensor, numel=numel, dtype=DTYPES[dtype], negative_slope=SLOPE
    )
    assert_close(out.check(), t.double() * torch.where(y.double() > 0, 1.0, SLOPE), 2, dtype)


# Sizes around vectors and chunks (4096), an empty tensor, and more tensors than one table holds (197 and 75).
NUMELS = [1, 3, 4, 8, 33, 0, 4095, 4096, 4097, 9000]
MANY = [5] * 260


@dtypes
@pytest.mark.parametrize("numels", [NUMELS, MANY], ids=["sizes", "many"])
@pytest.mark.parametrize("aligned", [True, False])
def test_clip_weights(host_kernels, any_order, dtype, numels, aligned):
    weights = [Guarded(n, dtype, aligned) for n in numels]
    expected = []
    for i, w in enumerate(weights):
        w.tensor.copy_(random_tensor(w.tensor.shape, dtype, i, scale=0.02))
        expected.append(w.tensor.clamp(-0.01, 0.01))
    host_kernels.call(
        "clip_weights", weights=[w.tensor for w in weights], numel=numels, tensors=len(numels), dtype=DTYPES[dtype],
        clip_value=0.01,
    )  # fmt: skip
    assert all(torch.equal(w.check(), e) for w, e in zip(weights, expected, strict=True))


def test_clip_weights_keeps_nan(host_kernels):
    weights = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.5])
    host_kernels.call("clip_weights", weights=[weights], numel=[5], tensors=1, dtype=0, clip_value=0.01)
    torch.testing.assert_close(
        weights, torch.tensor([math.nan, 0.01, -0.01, -0.0, 0.01]), rtol=0, atol=0, equal_nan=True
    )


RMSPROP = [
    dict(),
    dict(weight_decay=0.1, maximize=True),
    dict(centered=True, alpha=0.9),
    dict(centered=True, alpha=0.3, momentum=0.9),
    dict(momentum=0.5, clip_value=0.01),
    dict(clip_value=0.005),
]


@pytest.mark.parametrize("options", RMSPROP, ids=lambda options: ",".join(options) or "defaults")
@pytest.mark.parametrize("numels", [NUMELS, MANY[:80]], ids=["sizes", "many"])
def test_rmsprop_clip_is_torch_rmsprop_then_clamp(host_kernels, any_order, numels, options):
    """Three steps beside torch.optim.RMSprop, float32 both; the learning rate by value, then from memory."""
    options = dict(options)
    device_lr = torch.tensor(1e-3)
    clip_value = options.pop("clip_value", -1.0)
    ours = [Guarded(n, torch.float32) for n in numels]
    theirs = []
    for i, w in enumerate(ours):
        w.tensor.copy_(random_tensor(w.tensor.shape, torch.float32, i, scale=0.02))
        theirs.append(w.tensor.clone().requires_grad_())
    optimizer = torch.optim.RMSprop(theirs, lr=1e-3, foreach=False, **options)
    centred, momentum = options.get("centered", False), options.get("momentum", 0.0)
    state = {name: [torch.zeros(n) for n in numels] for name in ("square_avgs", "grad_avgs", "momentum_buffers")}
    lists = {"square_avgs": state["square_avgs"]}
    if centred:
        lists["grad_avgs"] = state["grad_avgs"]
    if momentum:
        lists["momentum_buffers"] = state["momentum_buffers"]
    for step in range(3):
        lr = dict(lr=7.0, device_lr=device_lr) if step == 1 else dict(lr=1e-3)
        grads = [random_tensor((n,), torch.float32, 1000 * step + i) for i, n in enumerate(numels)]
        for w, g in zip(theirs, grads, strict=True):
            w.grad = g.clone()
        optimizer.step()
        if clip_value >= 0:
            for w in theirs:
                w.data.clamp_(-clip_value, clip_value)
        host_kernels.call(
            "rmsprop_clip", weights=[w.tensor for w in ours], grads=grads, **lists, numel=numels, tensors=len(numels),
            dtype=0, **lr, alpha=options.get("alpha", 0.99), eps=1e-8, weight_decay=options.get("weight_decay", 0.0),
            momentum=momentum, maximize=options.get("maximize", False), clip_value=clip_value,
        )  # fmt: skip
    for w, reference in zip(ours, theirs, strict=True):
        # sqrt(s - m^2) cancels under `centered`: its relative error is a few roundings of s over what is left of it
        torch.testing.assert_close(w.check(), reference.detach(), rtol=2e-6, atol=2e-6 if centred else 2e-8)
    for w, s, m in zip(theirs, state["square_avgs"], state["momentum_buffers"], strict=True):
        torch.testing.assert_close(s, optimizer.state[w]["square_avg"], rtol=1e-6, atol=1e-9)
        if momentum:
            torch.testing.assert_close(m, optimizer.state[w]["momentum_buffer"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_rmsprop_clip_in_16_bits(host_kernels, any_order, dtype):
    """One step against float64: 16-bit tensors are rounded once, when they are stored."""
    w, g, s = (random_tensor((1030,), dtype, seed) for seed in (21, 22, 23))
    s.abs_().add_(0.1)
    square_avg = 0.99 * s.double() + 0.01 * g.double() ** 2
    expected = w.double() - 0.05 * g.double() / (square_avg.sqrt() + 1e-8)
    host_kernels.call(
        "rmsprop_clip", weights=[w], grads=[g], square_avgs=[s], numel=[1030], tensors=1, dtype=DTYPES[dtype], lr=0.05,
        alpha=0.99, eps=1e-8, clip_value=1.5,
    )  # fmt: skip
    assert_close(s, square_avg, 2, dtype)
    assert_close(w, expected.clamp(-1.5, 1.5), 2, dtype)
