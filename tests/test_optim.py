"""optim.RMSprop against torch.optim.RMSprop followed by clamp_; optim.Adam against torch.optim.Adam."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan.ops import use
from fastgan.optim import Adam, RMSprop

# One step computes p - lr * g / (sqrt(v) + eps) in about ten roundings; where torch fuses or orders them in another way
# each may differ. The parameter is rounded to its dtype at each step, and v carries its difference on to the next.
ULPS_A_STEP = 10
OPTIONS = [
    dict(zip(("momentum", "centered", "weight_decay", "maximize"), values, strict=True))
    for values in itertools.product((0.0, 0.9), (False, True), (0.0, 0.05), (False, True))
]


def critic(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 16, 1)).to(dtype)


def give_gradients(net: nn.Module, step: int) -> None:
    generator = torch.Generator("cpu").manual_seed(step)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator, device="cpu").to(p)


def clamp(net: nn.Module, clip_value: float | None) -> None:
    if clip_value is not None:
        with torch.no_grad():
            for p in net.parameters():
                p.clamp_(-clip_value, clip_value)


def assert_near(ours: nn.Module, plain: nn.Module, steps: int) -> None:
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        size = max(q.abs().max().item(), 1e-3)
        error = (p.double() - q.double()).abs().max().item()
        bound = ULPS_A_STEP * steps * torch.finfo(p.dtype).eps * size
        assert error <= bound, f"{name} after {steps} steps: error {error:.3g}, allowed {bound:.3g}"


def run(ours, plain, our_net, net, clip_value, steps, first=0) -> None:
    for step in range(first, first + steps):
        give_gradients(our_net, step)
        give_gradients(net, step)
        ours.step()
        plain.step()
        clamp(net, clip_value)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(k for k, v in o.items() if v) or "plain")
@pytest.mark.parametrize("clip_value", [0.03, None])
def test_equals_torch_then_clamp(options, clip_value, implementation):
    our_net, net = critic(), critic()
    ours = RMSprop(our_net.parameters(), lr=1e-3, clip_value=clip_value, **options)
    plain = torch.optim.RMSprop(net.parameters(), lr=1e-3, **options)
    run(ours, plain, our_net, net, clip_value, 5)
    assert_near(our_net, net, 5)
    for p, q in zip(our_net.parameters(), net.parameters(), strict=True):
        assert ours.state[p].keys() == plain.state[q].keys()
        assert ours.state[p]["step"] == plain.state[q]["step"] == 5
        for name, value in plain.state[q].items():
            torch.testing.assert_close(ours.state[p][name], value, rtol=1e-5, atol=1e-6)
    if clip_value is not None:
        assert all(p.abs().max() <= torch.tensor(clip_value) for p in our_net.parameters())


@pytest.mark.parametrize("foreach", [True, False, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_foreach(foreach, dtype, implementation):
    our_net, net = critic(dtype), critic(dtype)
    options = {"lr": 1e-2, "momentum": 0.5, "centered": dtype == torch.float64, "eps": 1e-4, "foreach": foreach}
    ours = RMSprop(our_net.parameters(), clip_value=0.05, **options)
    plain = torch.optim.RMSprop(net.parameters(), **options)
    run(ours, plain, our_net, net, 0.05, 3)
    assert_near(our_net, net, 3)


def test_defaults_are_torchs(implementation):
    net = critic()
    ours, plain = RMSprop(net.parameters()), torch.optim.RMSprop(net.parameters())
    assert {k: v for k, v in ours.defaults.items() if k != "clip_value"} == plain.defaults
    assert ours.defaults["clip_value"] is None
    assert isinstance(ours, torch.optim.RMSprop)


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "centered": True}], ids=str)
def test_state_dict_interchanges_with_torch_in_both_directions(options, implementation):
    our_net, net = critic(), critic()
    ours = RMSprop(our_net.parameters(), lr=1e-3, clip_value=0.03, **options)
    plain = torch.optim.RMSprop(net.parameters(), lr=1e-3, **options)
    run(ours, plain, our_net, net, 0.03, 3)

    to_torch_net, to_our_net = copy.deepcopy(our_net), copy.deepcopy(net)
    to_torch = torch.optim.RMSprop(to_torch_net.parameters())
    to_torch.load_state_dict(copy.deepcopy(ours.state_dict()))
    to_ours = RMSprop(to_our_net.parameters(), clip_value=0.03)
    to_ours.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert to_ours.param_groups[0]["lr"] == to_torch.param_groups[0]["lr"] == 1e-3
    assert to_ours.param_groups[0]["clip_value"] == 0.03
    run(to_ours, to_torch, to_our_net, to_torch_net, 0.03, 3, first=3)
    run(ours, plain, our_net, net, 0.03, 3, first=3)
    for continued in (to_our_net, to_torch_net, our_net):
        assert_near(continued, net, 6)


def test_each_group_keeps_its_clip_value_when_torchs_state_is_loaded():
    """torch's state has no clip_value: losing it would stop the clipping in silence."""
    a, b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
    groups = [{"params": [a], "clip_value": 0.01}, {"params": [b], "clip_value": 0.1}]
    ours = RMSprop(groups, lr=0.1)
    plain = torch.optim.RMSprop([{"params": [a]}, {"params": [b]}], lr=0.5)
    ours.load_state_dict(plain.state_dict())
    assert [g["clip_value"] for g in ours.param_groups] == [0.01, 0.1]
    assert [g["lr"] for g in ours.param_groups] == [0.5, 0.5]
    saved = RMSprop([{"params": [a], "clip_value": 0.2}, {"params": [b]}], clip_value=0.3).state_dict()
    ours.load_state_dict(saved)
    assert [g["clip_value"] for g in ours.param_groups] == [0.2, 0.3]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
def test_copies_go_on_alike(duplicate, implementation):
    net = critic()
    optimizer = RMSprop(net.parameters(), lr=1e-3, momentum=0.9, clip_value=0.03)
    give_gradients(net, 0)
    optimizer.step()
    other_net, other = duplicate((net, optimizer))
    for n, o in ((net, optimizer), (other_net, other)):
        give_gradients(n, 1)
        o.step()
    for p, q in zip(net.parameters(), other_net.parameters(), strict=True):
        assert torch.equal(p, q)
    assert other.param_groups[0]["clip_value"] == other.defaults["clip_value"] == 0.03


# -- groups, gradients, closures ---------------------------------------------------------------------------------------


def test_groups_have_their_own_clip_value_and_lr(implementation):
    a, b, c = (nn.Parameter(torch.ones(4)) for _ in range(3))
    optimizer = RMSprop([{"params": [a], "clip_value": 0.5}, {"params": [b], "lr": 0.0}], lr=1e-3, clip_value=0.25)
    optimizer.add_param_group({"params": [c], "clip_value": None})
    for p in (a, b, c):
        p.grad = torch.ones(4)
    optimizer.step()
    assert a.tolist() == [0.5] * 4 and b.tolist() == [0.25] * 4
    assert c[0].item() == pytest.approx(1 - 1e-3 / 0.1, rel=1e-5)


def test_parameters_without_gradient_are_clipped_but_not_stepped(implementation):
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((3,), 7.0))
    a.grad = torch.zeros(3)
    optimizer = RMSprop([a, b], clip_value=0.5)
    optimizer.step()
    assert b.tolist() == [0.5] * 3 and not optimizer.state[b]
    a.grad = None
    optimizer.step()
    assert a.tolist() == [0.5] * 3


@pytest.mark.parametrize("make", ["channels_last", "transposed", "expanded", "strided"])
def test_gradients_and_parameters_in_other_layouts(make, implementation):
    def build():
        torch.manual_seed(2)
        p = nn.Parameter(torch.randn(4, 3, 5, 2).to(memory_format=torch.channels_last))
        g = torch.randn(4, 3, 5, 2)
        p.grad = {
            "channels_last": lambda: g,
            "transposed": lambda: g.transpose(0, 1).contiguous().transpose(0, 1),
            "expanded": lambda: torch.randn(1, 3, 1, 2).expand(4, 3, 5, 2),
            "strided": lambda: torch.stack([g, g], -1)[..., 0],
        }[make]()
        return p

    p, q = build(), build()
    given = p.grad.clone()
    ours, plain = RMSprop([p], momentum=0.9, clip_value=0.5), torch.optim.RMSprop([q], momentum=0.9)
    for _ in range(2):
        ours.step()
        plain.step()
        q.data.clamp_(-0.5, 0.5)
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert torch.equal(p.grad, given) and p.is_contiguous(memory_format=torch.channels_last)


def test_parameters_that_are_not_dense_take_torchs_update():
    holder = torch.ones(4, 6)
    p = nn.Parameter(holder[:, ::2])
    assert not p.is_contiguous()
    p.grad = torch.ones(4, 3)
    RMSprop([p], lr=0.1, clip_value=0.5).step()
    assert p.unique().tolist() == [0.0] or p.abs().max() <= 0.5
    assert holder[:, 1::2].eq(1).all()
    with use("reference"):
        RMSprop([p], lr=0.1, clip_value=0.5).step()


def test_state_in_another_layout_than_the_parameter():
    """Loaded from a run in another memory format: the flat kernel would pair the wrong elements."""
    plain_net = nn.Conv2d(3, 4, 3)
    ours_net = copy.deepcopy(plain_net).to(memory_format=torch.channels_last)
    plain = torch.optim.RMSprop(plain_net.parameters(), momentum=0.9)
    ours = RMSprop(ours_net.parameters(), momentum=0.9)
    for step in range(3):
        give_gradients(plain_net, step)
        give_gradients(ours_net, step)
        if step == 1:
            ours.load_state_dict(copy.deepcopy(plain.state_dict()))
            state = ours.state[ours_net.weight]
            state["momentum_buffer"] = state["momentum_buffer"].contiguous()
        plain.step()
        ours.step()
    assert_near(ours_net, plain_net, 3)


def test_closure_scheduler_and_hooks(implementation):
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = RMSprop([p], lr=1.0, clip_value=1.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == -1.5 and calls == [1]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.step() is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lr_as_a_tensor(dtype, implementation):
    """Its value at the time of each step counts, whatever the step was called with first."""
    our_net, net = critic(), critic()
    lr = torch.tensor(1e-3, dtype=dtype)
    ours, plain = RMSprop(our_net.parameters(), lr=lr, clip_value=0.03), torch.optim.RMSprop(net.parameters(), lr=1e-3)
    run(ours, plain, our_net, net, 0.03, 2)
    lr.fill_(1e-2)
    plain.param_groups[0]["lr"] = 1e-2
    run(ours, plain, our_net, net, 0.03, 1, first=2)
    assert_near(our_net, net, 3)
    assert lr == torch.tensor(1e-2, dtype=dtype) and ours.param_groups[0]["lr"] is lr


def test_capturable_is_torchs_where_there_is_no_cuda_device():
    """torch refuses it for parameters on the CPU; silently stepping there would hide a wrong set-up."""
    messages = []
    for optimizer_of in (RMSprop, torch.optim.RMSprop):
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        with pytest.raises(AssertionError, match="capturable=True") as raised:
            optimizer_of([p], capturable=True).step()
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_capturable_steps_leave_everything_on_the_device(monkeypatch):
    """On tensors that pretend to lie on a GPU: the counts count there, the kernel gets lr as the tensor it is."""
    calls = []
    monkeypatch.setattr(torch.ops.fastgan, "rmsprop_clip_", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("fastgan.optim.use_kernel", lambda op, *tensors, gap=None: gap is None)
    monkeypatch.setattr("fastgan.optim.increment_versions", lambda tensors: None)
    with FakeTensorMode():
        p = nn.Parameter(torch.empty(3, 4, device="cuda"))
        p.grad = torch.empty(3, 4, device="cuda")
        lr = torch.empty((), device="cuda")
        optimizer = RMSprop([p], clip_value=0.1, capturable=True)
        optimizer.param_groups[0]["lr"] = lr  # torch's __init__ would look at its value
        optimizer.step()
        assert optimizer.state[p]["step"].is_cuda
        params, grads, square_avgs, _, _, lr_tensor, *options = calls.pop()
        assert params[0] is p and grads[0] is p.grad and square_avgs[0] is optimizer.state[p]["square_avg"]
        assert lr_tensor is lr and options[0] == 0.0
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        assert calls.pop()[5:7] == (None, 0.5)
        optimizer.state[p]["step"] = torch.empty(())  # a count that a captured graph would not count
        with pytest.raises(AssertionError, match="capturable=True"):
            optimizer.step()


def test_stepping_between_forward_and_backward_raises(implementation):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    loss = net(torch.randn(2, 3)).sum()
    give_gradients(net, 0)
    RMSprop(net.parameters()).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_opcheck(kernels):
    def tensors():
        return [torch.rand(3, 4), torch.rand(5)]

    options = (0.9, 1e-8, 0.1, 0.9, True, False, 0.5)
    for lr in ((None, 1e-2), (torch.tensor(1e-2), 0.0)):
        arguments = (tensors(), tensors(), tensors(), tensors(), tensors(), *lr, *options)
        torch.library.opcheck(torch.ops.fastgan.rmsprop_clip_.default, arguments)


@pytest.mark.parametrize("clip_value", [0, -0.01, float("nan"), "0.01"])
def test_a_bad_clip_value_is_named(clip_value):
    p = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=f"RMSprop: clip_value is {clip_value}; it takes a number above 0, or None"):
        RMSprop([p], clip_value=clip_value)
    with pytest.raises(ValueError, match="RMSprop: clip_value"):
        RMSprop([{"params": [p], "clip_value": clip_value}])
    optimizer = RMSprop([p])
    with pytest.raises(ValueError, match="RMSprop: clip_value"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "clip_value": clip_value})
    assert len(optimizer.param_groups) == 1, "a refused group was added"


def test_differentiable_is_refused():
    with pytest.raises(ValueError, match="RMSprop: differentiable is True"):
        RMSprop([nn.Parameter(torch.ones(1))], differentiable=True)


# ---- Adam -----------------------------------------------------------------------------------------------------------

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


@LAYOUTS
@pytest.mark.parametrize("grad_layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_torchs_fused_adam(layout, grad_layout, amsgrad):
    """In its contiguous form: of other layouts torch's own takes some for what they are not."""
    net, twin = critic().to(memory_format=layout), critic()
    options = {"lr": 1e-2, "betas": (0.5, 0.999), "weight_decay": 0.1, "amsgrad": amsgrad}
    ours, plain = Adam(net.parameters(), **options), torch.optim.Adam(twin.parameters(), fused=True, **options)
    for step in range(3):
        give_gradients(net, step)
        net[0].weight.grad = net[0].weight.grad.contiguous(memory_format=grad_layout)
        give_gradients(twin, step)
        ours.step()
        plain.step()
    assert_near(net, twin, steps=3)
    assert net[0].weight.is_contiguous(memory_format=layout)
    for p, q in zip(ours.state.values(), plain.state.values(), strict=True):
        assert all(torch.allclose(p[key], q[key], rtol=1e-6) for key in q)


def test_adam_copies_no_channels_last_gradient():
    net = critic().to(memory_format=torch.channels_last)
    optimizer = Adam(net.parameters())
    give_gradients(net, 0)
    net[0].weight.grad = net[0].weight.grad.contiguous(memory_format=torch.channels_last)
    optimizer.step()
    with torch.profiler.profile() as profile:
        optimizer.step()
    names = {event.name for event in profile.events()}
    assert "aten::_fused_adam_" in names
    assert "aten::clone" not in names


@LAYOUTS
def test_adam_goes_on_from_a_state_of_torchs(layout):
    """Contiguous moments beside a channels-last parameter, too."""
    net, twin = critic(), critic()
    ours, plain = Adam(net.parameters(), lr=1e-2), torch.optim.Adam(twin.parameters(), lr=1e-2)
    give_gradients(twin, 0)
    plain.step()
    net.load_state_dict(twin.state_dict())
    net.to(memory_format=layout)
    ours.load_state_dict(copy.deepcopy(plain.state_dict()))
    for group in ours.param_groups:
        group["fused"] = True
    for each, optimizer in ((net, ours), (twin, plain)):
        give_gradients(each, 1)
        optimizer.step()
    assert_near(net, twin, steps=2)
    plain.load_state_dict(ours.state_dict())
    assert plain.state_dict()["state"].keys() == ours.state_dict()["state"].keys()


@pytest.mark.parametrize("option", [{"foreach": True}, {"foreach": False}, {"capturable": False}, {"fused": False}])
def test_adam_leaves_the_form_to_who_asks_for_one(option):
    assert not Adam(critic().parameters(), **option).param_groups[0]["fused"]


def test_adam_passes_a_tensor_of_a_learning_rate_on():
    """torch's fused Adam reads it where it lies: a captured graph follows its changes."""
    net, lr = critic(), torch.tensor(1e-2)
    optimizer = Adam(net.parameters(), lr=lr)
    assert optimizer.param_groups[0]["fused"] and optimizer.param_groups[0]["lr"] is lr
    before = net[0].weight.detach().clone()
    give_gradients(net, 0)
    optimizer.step()
    assert torch.allclose((net[0].weight - before).abs(), lr, rtol=1e-4)
    lr.zero_()
    after = net[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(net[0].weight, after)
    capturable = Adam(critic().parameters(), capturable=True, fused=True).param_groups[0]
    assert capturable["capturable"] and capturable["fused"]


def test_adam_of_what_cannot_be_fused():
    p = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    optimizer = Adam([{"params": [p]}], lr=0.1)
    optimizer.step()
    assert torch.allclose(p.detach(), torch.full_like(p, -0.1))
