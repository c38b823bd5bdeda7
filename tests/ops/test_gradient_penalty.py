"""gradient_penalty against numbers worked by hand, and against double backward in plain PyTorch, over many critics."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_rounding_equal
from torch import fx, nn

from fastgan.ops import _penalty_ops, gradient_penalty

from .critics import (
    DOUBLE_BACKWARD,
    DTYPE,
    IMAGE,
    PIECEWISE_LINEAR,
    LabelPlane,
    Residual,
    dcgan,
    double_backward,
    gradients,
    images,
    linear_critic,
    norm,
)

METHODS = pytest.mark.parametrize("method", ["auto", "analytic", "autograd"])


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-10) -> None:
    assert ours.keys() == expected.keys()
    size = max(g.abs().max().item() for g in expected.values())
    for name, gradient in expected.items():
        error = (ours[name] - gradient).abs().max().item()
        assert error <= tolerance * size, f"gradient of {name}: error {error:.3g} where gradients reach {size:.3g}"


# -- worked by hand ----------------------------------------------------------------------------------------------------


@METHODS
@pytest.mark.parametrize(("target", "one_sided"), [(1.0, False), (0.0, False), (3.0, False), (3.0, True), (0.1, True)])
def test_a_linear_critic_has_a_closed_form(method, target, one_sided, implementation):
    critic, w = linear_critic()
    real, fake, _ = images((4, 2, 3))
    distance = norm(w) - target
    if one_sided:
        distance = max(distance, 0.0)
    value = gradient_penalty(critic, real, fake, weight=7.0, target=target, one_sided=one_sided, method=method)
    assert value.shape == ()
    assert value.item() == pytest.approx(7.0 * distance**2, rel=1e-12)
    value.backward()
    torch.testing.assert_close(critic[1].weight.grad.flatten(), 14.0 * distance * w / norm(w), rtol=1e-10, atol=1e-12)
    assert critic[1].bias.grad is None or not critic[1].bias.grad.any()


@METHODS
def test_the_norm_is_per_sample_over_all_elements(method, implementation):
    """D(x) = a_n * <w, x_n> with its own a for each sample: a norm over the batch or per pixel gives another number."""

    class PerSample(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 1, dtype=DTYPE)

        def forward(self, x):
            return torch.cat([self.linear(x[0:1].flatten(1)) * 1.0, self.linear(x[1:2].flatten(1)) * 5.0])

    critic = PerSample()
    real, fake, _ = images((2, 3, 2, 2))
    w = norm(critic.linear.weight.detach())
    value = gradient_penalty(critic, real, fake, weight=1.0, method=method).item()
    assert value == pytest.approx(((w - 1) ** 2 + (5 * w - 1) ** 2) / 2, rel=1e-12)


@METHODS
def test_epsilon_is_per_sample_and_drawn_by_torch_rand(method, implementation):
    """The critic's slope depends on where x_hat lies, so each sample's epsilon shows in the result."""
    critic = nn.Sequential(nn.Linear(1, 1, dtype=DTYPE), nn.ReLU()).to(DTYPE)
    with torch.no_grad():
        critic[0].weight.fill_(3.0)
        critic[0].bias.fill_(-1.5)  # slope 3 where x > 0.5, else 0
    real, fake = torch.ones(4, 1, dtype=DTYPE), torch.zeros(4, 1, dtype=DTYPE)  # x_hat = epsilon
    epsilon = torch.tensor([0.1, 0.9, 0.8, 0.2], dtype=DTYPE)
    value = gradient_penalty(critic, real, fake, weight=1.0, epsilon=epsilon, method=method)
    assert value.item() == pytest.approx((1 + 4 + 4 + 1) / 4)
    assert gradient_penalty(critic, real, fake, weight=1.0, epsilon=epsilon.view(4, 1), method=method) == value
    torch.manual_seed(3)
    drawn = gradient_penalty(critic, real, fake, method=method)
    torch.manual_seed(3)
    assert drawn == gradient_penalty(critic, real, fake, epsilon=torch.rand(4, dtype=DTYPE), method=method)


@METHODS
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_zero_gradient_gives_no_nan(method, target, implementation):
    critic = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).to(DTYPE)
    with torch.no_grad():
        critic[0].bias.fill_(-100.0)  # every unit dead: dD/dx = 0
    real, fake, _ = images((5, 3))
    value = gradient_penalty(critic, real, fake, target=target, method=method)
    assert value.item() == pytest.approx(10.0 * target**2)
    assert all(not g.any() for g in gradients(critic, value).values())


# -- against double backward -------------------------------------------------------------------------------------------


def compare(critic, args, shape, method, **options):
    real, fake, epsilon = images(shape)
    expected_value = double_backward(critic, real, fake, epsilon, args, **options)
    expected = gradients(critic, expected_value)
    value = gradient_penalty(critic, real, fake, critic_args=args, epsilon=epsilon, method=method, **options)
    assert_rounding_equal(value, expected_value, "penalty")
    assert_same(gradients(critic, value), expected)


@pytest.mark.parametrize("family", PIECEWISE_LINEAR)
def test_the_analytic_path_equals_double_backward(family, implementation):
    critic, args, shape = PIECEWISE_LINEAR[family]()
    compare(critic.to(DTYPE), args, shape, "analytic")


@pytest.mark.parametrize("family", DOUBLE_BACKWARD)
def test_what_is_not_piecewise_linear_takes_double_backward(family):
    critic, args, shape = DOUBLE_BACKWARD[family]()
    critic = critic.to(DTYPE)
    real, fake, epsilon = images(shape)
    with pytest.raises(ValueError, match=r"method='analytic' does not cover this critic: .+"):
        gradient_penalty(critic, real, fake, critic_args=args, method="analytic")
    compare(critic, args, shape, "auto")


@pytest.mark.parametrize("options", [{"target": 0.0}, {"target": 2.0, "one_sided": True}, {"weight": 0.5}], ids=str)
def test_options_reach_both_paths(options, implementation):
    for method in ("analytic", "autograd"):
        compare(dcgan().to(DTYPE), (), IMAGE, method, **options)


def test_functions_and_train_mode_dropout_take_double_backward():
    critic = dcgan().to(DTYPE)
    real, fake, epsilon = images()
    expected = gradients(critic, double_backward(critic, real, fake, epsilon))

    def closure(x):
        return critic(x)

    for function in (closure, lambda x: critic(x), critic.forward):
        with pytest.raises(ValueError, match="not an nn.Module"):
            gradient_penalty(function, real, fake, method="analytic")
        assert_same(gradients(critic, gradient_penalty(function, real, fake, epsilon=epsilon)), expected)

    dropout = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1)).to(DTYPE)
    with pytest.raises(ValueError, match="Dropout"):
        gradient_penalty(dropout, real, fake, method="analytic")
    torch.manual_seed(5)
    expected = gradients(dropout, double_backward(dropout, real, fake, epsilon))
    torch.manual_seed(5)
    assert_same(gradients(dropout, gradient_penalty(dropout, real, fake, epsilon=epsilon)), expected)


def test_noise_drawn_in_forward_is_drawn_once():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = dcgan().to(DTYPE)

        def forward(self, x):
            return self.net(x + 0.1 * torch.randn(IMAGE, dtype=DTYPE))

    critic = Noisy()
    real, fake, epsilon = images()
    torch.manual_seed(7)
    expected = gradients(critic, double_backward(critic, real, fake, epsilon))
    state = torch.get_rng_state()
    torch.manual_seed(7)
    assert_same(gradients(critic, gradient_penalty(critic, real, fake, epsilon=epsilon)), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["writes attributes", "appends to a list", "batch norm", "spectral_norm"])
def test_a_module_is_left_as_one_forward_leaves_it(family):
    critic, args, _ = DOUBLE_BACKWARD[family]()
    critic = critic.to(DTYPE).train()
    plain = copy.deepcopy(critic)
    real, fake, epsilon = images()
    with pytest.raises(ValueError):
        gradient_penalty(critic, real, fake, critic_args=args, method="analytic")
    for name, value in plain.state_dict().items():
        assert torch.equal(critic.state_dict()[name], value), f"{name} was written by a refused analytic penalty"
    gradient_penalty(critic, real, fake, critic_args=args, epsilon=epsilon)
    double_backward(plain, real, fake, epsilon, args)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(critic.state_dict()[name], value, rtol=1e-12, atol=1e-12)
    assert critic.__dict__.keys() == plain.__dict__.keys()
    for module, other in zip(critic.modules(), plain.modules(), strict=True):
        assert module.__dict__.keys() == other.__dict__.keys()
        if hasattr(module, "history"):
            assert len(module.history) == len(other.history) == 1
            assert all(isinstance(item, (int, torch.Tensor)) for item in module.history)  # no proxies


def test_global_hooks_take_double_backward():
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        with pytest.raises(ValueError, match="hooks on all modules"):
            gradient_penalty(dcgan().to(DTYPE), *images()[:2], method="analytic")
    finally:
        handle.remove()


@pytest.mark.parametrize("seed", range(3))
@METHODS
def test_float32_is_as_exact_as_double_backward(method, seed, implementation):
    torch.manual_seed(seed)
    critic = dcgan()
    real, fake, epsilon = images(dtype=torch.float32)
    plain = gradients(critic, double_backward(critic, real, fake, epsilon))
    ours = gradients(critic, gradient_penalty(critic, real, fake, epsilon=epsilon, method=method))
    wide = copy.deepcopy(critic).to(DTYPE)
    exact = gradients(wide, double_backward(wide, real.double(), fake.double(), epsilon.double()))
    for name in exact:
        allowed = 2 * (plain[name] - exact[name]).norm() + 2e-7 * max(g.norm() for g in exact.values())
        assert (ours[name] - exact[name]).norm() <= allowed, name


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@METHODS
def test_layouts_of_real_and_fake(method, memory_format, implementation):
    critic = dcgan().to(DTYPE)
    real, fake, epsilon = images()
    expected = gradients(critic, double_backward(critic, real, fake, epsilon))
    laid = real.to(memory_format=memory_format)
    spread = torch.stack([fake, fake], -1)[..., 0]
    assert not spread.is_contiguous()
    for a, b in ((laid, fake), (laid, fake.to(memory_format=memory_format)), (laid, spread)):
        assert_same(gradients(critic, gradient_penalty(critic, a, b, epsilon=epsilon, method=method)), expected)


@METHODS
def test_frozen_parameters(method, implementation):
    critic = dcgan().to(DTYPE)
    critic[0].requires_grad_(False)
    critic[2].bias.requires_grad_(False)
    compare(critic, (), IMAGE, method)
    assert critic[0].weight.grad is None
    critic.requires_grad_(False)
    value = gradient_penalty(critic, *images()[:2], method=method)
    assert value > 0
    if method != "autograd":
        assert not value.requires_grad


@METHODS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", [dcgan, LabelPlane, Residual], ids=["dcgan", "label plane", "resnet"])
def test_autocast(method, dtype, family, implementation):
    critic = family()
    args = (torch.tensor([0, 1, 2, 3, 0]),) if family is LabelPlane else ()
    real, fake, epsilon = images(dtype=torch.float32)
    exact = gradients(critic, double_backward(critic, real, fake, epsilon, args))
    with torch.autocast("cpu", dtype=dtype):
        plain = double_backward(critic, real, fake, epsilon, args)
        value = gradient_penalty(critic, real, fake, critic_args=args, epsilon=epsilon, method=method, autocast=True)
    assert value.dtype == torch.float32
    plain, ours = gradients(critic, plain), gradients(critic, value)
    size = max(g.norm() for g in exact.values())
    for name in exact:
        allowed = 2 * (plain[name] - exact[name]).norm() + torch.finfo(dtype).eps * size
        assert (ours[name] - exact[name]).norm() <= allowed, name


@METHODS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", [dcgan, LabelPlane], ids=["dcgan", "label plane"])
def test_float32_whatever_autocast_says(method, dtype, family, implementation):
    critic = family()
    args = (torch.tensor([0, 1, 2, 3, 0]),) if family is LabelPlane else ()
    real, fake, epsilon = images(dtype=torch.float32)
    fake = fake.to(dtype)  # as a generator under autocast leaves it
    expected = gradient_penalty(critic, real, fake.float(), critic_args=args, epsilon=epsilon, method=method)
    with torch.autocast("cpu", dtype=dtype):
        value = gradient_penalty(critic, real, fake, critic_args=args, epsilon=epsilon, method=method)
        assert torch.is_autocast_enabled("cpu")
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    ours = gradients(critic, value)
    for name, gradient in gradients(critic, expected).items():
        assert torch.equal(ours[name], gradient), name


@METHODS
def test_a_norm_beyond_float16_under_autocast(method):
    """A gradient of 2e3 in each of 5e2 pixels has a norm of 4e4, whose square float16 cannot hold."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(512, 1, bias=False))
    nn.init.constant_(critic[1].weight, 2e3)
    x = torch.zeros(2, 2, 16, 16)
    with torch.autocast("cpu", dtype=torch.float16):
        value = gradient_penalty(critic, x, x, weight=1.0, target=0.0, method=method)
    assert value.item() == pytest.approx(512 * 4e6, rel=1e-6)
    assert gradients(critic, value)["1.weight"].flatten().tolist() == pytest.approx([4e3] * 512, rel=1e-6)


@METHODS
@pytest.mark.parametrize("wrap", ["module", "method", "submodule"])
def test_compiled_critics(method, wrap):
    torch._dynamo.reset()
    critic = dcgan()
    real, fake, epsilon = images(dtype=torch.float32)
    expected = gradients(critic, double_backward(critic, real, fake, epsilon))
    if wrap == "method":
        critic.compile(backend="aot_eager")
        called = critic
    else:
        compiled = torch.compile(critic, backend="aot_eager")
        called = compiled if wrap == "module" else nn.Sequential(compiled)
    called(real)
    if wrap == "submodule" and method == "analytic":
        with pytest.raises(ValueError, match="does not cover this critic"):
            gradient_penalty(called, real, fake, method=method)
        return
    value = gradient_penalty(called, real, fake, epsilon=epsilon, method=method)
    assert_same(gradients(critic, value), expected, tolerance=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "convert",
    [torch.jit.script, lambda critic: torch.jit.trace(critic, (torch.zeros(IMAGE),)), fx.symbolic_trace],
    ids=["script", "trace", "fx"],
)
def test_converted_critics_take_double_backward(convert):
    critic = dcgan(nn.ReLU)
    real, fake, epsilon = images(dtype=torch.float32)
    expected = gradients(critic, double_backward(critic, real, fake, epsilon))
    converted = convert(critic)
    assert_same(
        gradients(converted, gradient_penalty(converted, real, fake, epsilon=epsilon)), expected, tolerance=1e-5
    )


def test_inside_a_compiled_step():
    torch._dynamo.reset()
    critic = dcgan()
    real, fake, epsilon = images(dtype=torch.float32)
    expected = gradients(critic, double_backward(critic, real, fake, epsilon))
    step = torch.compile(lambda: gradient_penalty(critic, real, fake, epsilon=epsilon) * 1.0, backend="aot_eager")
    assert_same(gradients(critic, step()), expected, tolerance=1e-5)


# -- in a training step ------------------------------------------------------------------------------------------------


@METHODS
def test_added_to_a_wasserstein_loss_and_backward_once(method, implementation):
    critic = dcgan().to(DTYPE)
    real, fake, epsilon = images()
    loss = critic(fake).mean() - critic(real).mean()
    expected = gradients(critic, loss + double_backward(critic, real, fake, epsilon))
    loss = critic(fake).mean() - critic(real).mean()
    penalty = gradient_penalty(critic, real, fake, epsilon=epsilon, method=method)
    assert_same(gradients(critic, loss + penalty), expected)
    scaled = gradients(critic, 3.0 * gradient_penalty(critic, real, fake, epsilon=epsilon, method=method))
    assert_same(scaled, gradients(critic, 3.0 * double_backward(critic, real, fake, epsilon)))


@METHODS
def test_real_and_fake_get_no_gradient_and_keep_their_values(method, implementation):
    critic = dcgan().to(DTYPE)
    real, fake, epsilon = images()
    generator = nn.Conv2d(3, 3, 1).to(DTYPE)
    made, kept = generator(fake), real.clone()
    real.requires_grad_()
    value = gradient_penalty(critic, real, made, epsilon=epsilon, method=method)
    value.backward()
    assert real.grad is None and generator.weight.grad is None
    assert torch.equal(real, kept)
    made.sum().backward()  # the generator's graph is still whole
    assert generator.weight.grad is not None


@METHODS
def test_retain_graph_and_no_grad(method, implementation):
    critic = dcgan().to(DTYPE)
    real, fake, epsilon = images()
    value = gradient_penalty(critic, real, fake, epsilon=epsilon, method=method)
    value.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in critic.named_parameters() if p.grad is not None}
    value.backward()
    assert_same({n: p.grad for n, p in critic.named_parameters() if n in once}, {n: 2 * g for n, g in once.items()})
    with pytest.raises(RuntimeError):
        value.backward()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            quiet = gradient_penalty(critic, real, fake, epsilon=epsilon, method=method)
        assert not quiet.requires_grad
        assert_rounding_equal(quiet, value)


def test_a_second_derivative_of_the_analytic_penalty_raises(implementation):
    """Beside another loss the missing part would go unnoticed."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 1)).to(DTYPE)
    real, fake, epsilon = images()
    parameters = list(critic.parameters())

    def gradient_norm(method):
        loss = critic(real).square().mean() + gradient_penalty(critic, real, fake, epsilon=epsilon, method=method)
        return sum(g.square().sum() for g in torch.autograd.grad(loss, parameters, create_graph=True))

    with pytest.raises(RuntimeError, match="analytic penalty is differentiable once.*method='autograd'"):
        gradient_norm("auto").backward()
    gradient_norm("autograd").backward()


@METHODS
def test_an_empty_batch_does_not_crash(method):
    value = gradient_penalty(dcgan().to(DTYPE), *(t[:0] for t in images()[:2]), method=method)
    assert value.shape == ()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"critic": "dcgan"}, TypeError, "critic is str"),
        ({"critic": lambda x: (x, x)}, ValueError, "critic returned tuple; it has to return one tensor"),
        ({"critic": lambda x: torch.ones(5)}, ValueError, "does not depend on its input"),
        ({"fake": None}, ValueError, "fake is NoneType"),
        ({"real": torch.zeros(IMAGE, dtype=torch.uint8)}, ValueError, r"real is torch.uint8 \(5, 3, 8, 8\)"),
        ({"real": torch.zeros(5)}, ValueError, r"real is torch.float32 \(5,\)"),
        ({"fake": torch.zeros(4, 3, 8, 8)}, ValueError, r"real has shape \(5, 3, 8, 8\) and fake \(4, 3, 8, 8\)"),
        ({"fake": torch.zeros(IMAGE, dtype=DTYPE)}, ValueError, "real is torch.float32 on cpu and fake torch.float64"),
        ({"epsilon": torch.rand(3)}, ValueError, r"epsilon has shape \(3,\); it takes a tensor \(5,\)"),
        ({"epsilon": 0.5}, ValueError, "epsilon has type float"),
        ({"method": "fast"}, ValueError, "method is 'fast'; it takes one of auto, analytic, autograd"),
        ({"weight": "10"}, TypeError, "weight is str"),
        ({"target": None}, TypeError, "target is NoneType"),
        ({"critic_args": torch.zeros(5)}, TypeError, "critic_args is Tensor"),
    ],
)  # fmt: skip
def test_bad_input_is_named(changes, error, words):
    arguments = {"critic": dcgan(), "real": torch.randn(IMAGE), "fake": torch.randn(IMAGE)} | changes
    with pytest.raises(error, match=f"gradient_penalty: .*{words}"):
        gradient_penalty(**arguments)


# -- inner ops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(3, 3, 7, 5), (1, 1), (4, 1000), (2, 3, 16, 16)], ids=str)
def test_inner_ops_against_float64(dtype, shape, implementation):
    real, fake, t = (torch.randn(shape).to(dtype) for _ in range(3))
    epsilon = torch.rand(shape[0]).to(dtype)
    e = epsilon.double().view(-1, *[1] * (len(shape) - 1))
    mixed = _penalty_ops.interpolate(real, fake, epsilon)
    assert mixed.dtype == dtype
    ulp = torch.finfo(dtype).eps
    assert (mixed.double() - (e * real.double() + (1 - e) * fake.double())).abs().max() <= 16 * ulp
    masked = _penalty_ops.leaky_mask_mul(t, real, 0.25)
    assert torch.equal(masked, torch.where(real > 0, t, t * 0.25))

    for one_sided in (False, True):
        leaf = t.double().clone().requires_grad_()
        distance = leaf.flatten(1).norm(dim=1) - 1.5
        expected = 10 * (distance.clamp(min=0) if one_sided else distance).square().mean()
        expected.backward()
        value, gradient = _penalty_ops.penalty_and_gradient(t, 10.0, 1.5, one_sided)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert gradient.dtype == dtype
        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            gradient.double(), leaf.grad, rtol=4 * ulp, atol=4 * ulp * leaf.grad.abs().max().item()
        )


def test_derivatives_of_the_penalty_op(implementation):
    g = torch.randn(3, 4, dtype=DTYPE, requires_grad=True)
    for one_sided in (False, True):
        function = lambda g, o=one_sided: _penalty_ops.penalty(g, 10.0, 1.0, o)  # noqa: E731
        assert torch.autograd.gradcheck(function, [g])
        assert torch.autograd.gradgradcheck(function, [g])


def test_opcheck(kernels):
    ops = torch.ops.fastgan
    real, fake = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    torch.library.opcheck(ops.interpolate.default, (real, fake, torch.rand(3)))
    torch.library.opcheck(ops.interpolate.default, (real.to(memory_format=torch.channels_last), fake, torch.rand(3)))
    torch.library.opcheck(ops.leaky_mask_mul.default, (real, fake, 0.2))
    torch.library.opcheck(ops.penalty.default, (real.requires_grad_(), 10.0, 1.0, False))


def test_fullgraph_compile_of_the_inner_ops(implementation):
    torch._dynamo.reset()
    real, fake, epsilon = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3)

    def inner(real, fake, epsilon):
        mixed = _penalty_ops.interpolate(real, fake, epsilon)
        return _penalty_ops.leaky_mask_mul(mixed, fake, 0.2), _penalty_ops.penalty(mixed, 1.0, 1.0, False)

    compiled = torch.compile(inner, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(real, fake, epsilon), inner(real, fake, epsilon), strict=True):
        assert_rounding_equal(a, b)


def test_a_conv_of_ours_inside_a_critic(implementation):
    """fastgan's functional op in somebody's critic: unknown to the analytic path, right by double backward."""
    from fastgan.ops import conv2d_bn_act

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(144, 1)

        def forward(self, x, fused=True):
            if fused:
                y = conv2d_bn_act(x, self.conv.weight, self.conv.bias, norm=False, activation="leaky_relu").y
            else:
                y = F.leaky_relu(self.conv(x), 0.2)
            return self.linear(y.flatten(1))

    critic = Critic().to(DTYPE)
    real, fake, epsilon = images()
    expected = gradients(critic, double_backward(critic, real, fake, epsilon, (False,)))
    assert_same(gradients(critic, gradient_penalty(critic, real, fake, epsilon=epsilon)), expected)
