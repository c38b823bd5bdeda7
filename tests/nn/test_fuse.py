"""`fuse` and `unfuse` under everything users do to a model before, between and after."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import threading
import warnings
import weakref

import pytest
import torch
from ops.conv_cases import set_plan
from torch import nn

import fastgan.nn.fused
from fastgan.nn import fuse, unfuse
from fastgan.ops import _library, gradient_penalty, use

from .compare import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, assert_close, assert_same_step, twins
from .wild_models import DCGANDiscriminator, DCGANGenerator, ResidualBlock, conv_block

TOLERANCE = OUTPUT_TOLERANCE[torch.float64]


def double(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model.double()


def images(*shape):
    torch.manual_seed(1)
    return torch.randn(*(shape or (2, 3, 8, 8)), dtype=torch.float64)


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# -- the layers' own rules -------------------------------------------------------------------------------------------
NORMS = {
    "cumulative": {"momentum": None},
    "momentum": {"momentum": 0.7},
    "no_affine": {"affine": False},
    "no_statistics": {"track_running_stats": False},
    "eps": {"eps": 0.3},
}


@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS)
def test_batch_norm_options(options, implementation):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **options), nn.ReLU())))
    assert len(fuse(fused, report=True)[1].fused) == 1
    for mode in (True, True, True, False):
        fused.train(mode)
        plain.train(mode)
        assert_same_step(fused, plain, (images(),), exact=implementation == "reference")


def test_batch_norm_switched_by_attributes(implementation):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
    fuse(fused)
    for change in ("frozen", "not tracking", "no counter"):
        for model in (fused, plain):
            model.train()
            if change == "frozen":
                model[1].eval()
            elif change == "not tracking":
                model[1].track_running_stats = False
            else:
                model[1].track_running_stats = True
                model[1].num_batches_tracked = None
                model[1].momentum = None
        assert_same_step(fused, plain, (images(),), exact=implementation == "reference")


@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)),
        lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False),
        lambda: nn.ConvTranspose2d(3, 4, (4, 3), (2, 1), (1, 2), bias=False),
        lambda: nn.ConvTranspose2d(3, 6, 3, 2, 1, output_padding=1, groups=3, dilation=2),
    ],
)
@pytest.mark.parametrize("act", [nn.ReLU(True), nn.LeakyReLU(0.3), nn.LeakyReLU(-0.5), nn.Tanh(), None])
@pytest.mark.parametrize("norm", [True, False])
def test_geometries_and_activations(conv, act, norm, fused_op):
    conv = conv()
    layers = [
        conv,
        *([nn.BatchNorm2d(conv.out_channels)] if norm else []),
        *([] if act is None else [copy.deepcopy(act)]),
    ]
    fused, plain = twins(double(nn.Sequential(*layers)))
    report = fuse(fused, report=True)[1]
    alone = not norm and act is None
    assert (len(report.fused), len(report.alone)) == (not alone, alone)
    assert_same_step(fused, plain, (images(),))
    # Where the slope is negative, the sign of the output does not tell it.
    assert len(fused_op) == (getattr(act, "negative_slope", 0) >= 0)


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(3, 4, 3, 2, 1, dilation=3), nn.ConvTranspose2d(3, 4, 2, 1, 2, output_padding=1, dilation=2)]
)
def test_one_value_per_channel_is_refused_as_in_torch(conv, implementation):
    model = fuse(double(nn.Sequential(copy.deepcopy(conv), nn.BatchNorm2d(4), nn.ReLU())))
    size = 5 if isinstance(conv, nn.Conv2d) else 2
    with torch.no_grad():
        assert conv.double()(images(1, 3, size, size)).shape == (1, 4, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images(1, 3, size, size))
    for more in ((2, 3, size, size), (1, 3, size, size + 2)):
        assert torch.isfinite(model(images(*more))).all()
    assert torch.isfinite(model.eval()(images(1, 3, size, size))).all()


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8)])
def test_inputs_no_kernel_takes(shape, fused_op):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))
    fuse(fused)
    assert_same_step(fused, plain, (images(*shape),), exact=True)
    assert not fused_op


def test_channels_last(implementation):
    fused, plain = twins(double(DCGANDiscriminator()).to(memory_format=torch.channels_last))
    fuse(fused)
    x = images(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert_same_step(fused, plain, (x,), exact=implementation == "reference")
    assert fused.main[:2](x).stride() == plain.main[:2](x).stride()


def test_half_precision(fused_op):
    fused, plain = twins(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).bfloat16())
    fuse(fused)
    x = images().bfloat16()
    assert fused(x).dtype == torch.bfloat16
    assert_close(fused(x).float(), plain(x).float(), 0.02, "output")  # bfloat16 keeps 8 bits: 2^-8 a rounding
    assert fused[1].running_mean.dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["analytic", "autograd"])
def test_gradient_penalty_of_a_fused_critic(method, implementation):
    layers = nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)
    fused, plain = twins(double(nn.Sequential(*layers)))
    assert len(fuse(fused, report=True)[1].fused) == 2
    real, fake, epsilon = images(), images() + 1, torch.tensor([0.25, 0.75], dtype=torch.float64)
    for model in (fused, plain):
        gradient_penalty(model, real, fake, epsilon=epsilon, method=method).backward()
    for p, q in zip(fused.parameters(), plain.parameters(), strict=True):
        grad, expected = (torch.zeros_like(p) if t.grad is None else t.grad for t in (p, q))  # biases: zero or None
        assert_close(grad, expected, 1e-9, "gradient of the penalty", floor=1e-3)


def test_double_backward(implementation):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 3), nn.Tanh())))
    fuse(fused)
    for model in (fused, plain):
        x = images().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (grad.square().sum()).backward()
    for p, q in zip(fused.parameters(), plain.parameters(), strict=True):
        assert_close(p.grad, q.grad, 1e-9, "second derivative", floor=1e-3)


# -- a convolution alone ---------------------------------------------------------------------------------------------
class Uses(nn.Module):
    """Two convolutions that every kernel for float32 may compute, and what is done with the output of the second."""

    def __init__(self, use):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 5, 4, 2, 1), nn.ConvTranspose2d(5, 3, 4, 2, 1)
        self.end = nn.Conv2d(3, 4, (8, 8))
        self.use = use

    def forward(self, x):
        up = self.up(self.down(x).tanh())
        return self.use(up, x).sum((2, 3)), self.use(self.end(up + 1), self.end.weight.mean())


USES = {
    "left": lambda h, x: h,
    "several": lambda h, x: h.exp() + h * x,
    "iadd": lambda h, x: h.__iadd__(x),
    "relu_": lambda h, x: torch.nn.functional.relu(h, inplace=True),
    "part of a view": lambda h, x: (h.view(2, -1)[:, 1:].mul_(2), h)[1],
    "then read again": lambda h, x: h.sin() + h.mul_(3),
}


@pytest.mark.parametrize("planned", ["aten", "winograd", "thin", "matmul"])
@pytest.mark.parametrize("use", USES)
def test_output_of_a_convolution_alone_is_an_ordinary_tensor(use, planned, implementation):
    if _library.LOADED:
        set_plan(planned)
    try:
        fused, plain = twins(Uses(USES[use]))
        assert list(fuse(fused, report=True)[1].alone) == ["down", "up", "end"]
        check_uses(fused, plain, use, exact=implementation == "reference")
    finally:
        set_plan("auto")


def check_uses(fused, plain, use, exact):
    outcomes = []
    for model in (fused, plain):
        x = images().float().requires_grad_()
        try:
            outputs = model(x)
            gradients = torch.autograd.grad(sum(y.square().sum() for y in outputs), [x, *model.parameters()])
            outcomes.append([*outputs, *gradients])
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            outcomes.append(None)
    assert (outcomes[0] is None) == (outcomes[1] is None) == (use == "then read again")
    for i, (actual, expected) in enumerate(zip(*(outcome or [] for outcome in outcomes), strict=True)):
        assert_close(actual, expected, 0.0 if exact else GRADIENT_TOLERANCE[torch.float32], f"tensor {i}")


def test_convolution_alone_follows_every_path(fused_op):
    """Its output is its own whatever takes it, so that neither a switch nor an argument makes it plain."""

    class Paths(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.twice = nn.Conv2d(3, 3, 1), 0.0
            self.stage = 1

        def forward(self, x, flag=False):
            if self.stage == 2:
                return self.conv(x).exp()
            return self.conv(self.conv(x).sin()) if self.twice else self.conv(x) * (2 if flag else 1)

    fused, plain = twins(double(Paths()))
    assert list(fuse(fused, report=True)[1].alone) == ["conv"]
    for change, call in (({}, (True,)), ({"stage": 2}, ()), ({"stage": 3}, ()), ({"twice": 1.0}, ())):
        for model in (fused, plain):
            vars(model).update(change)
        with no_warnings():
            assert_close(fused(images(), *call), plain(images(), *call), TOLERANCE, str(change))
    assert len(fused_op) == 4  # the second of two calls is plain


def test_convolution_alone_and_what_is_done_to_it(fused_op):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid())))
    fuse(fused)
    assert torch.equal(fused[0](images()), plain[0](images()))
    assert not fused_op  # outside of its root
    seen = []
    handle = fused[0].register_forward_hook(lambda m, args, out: seen.append(out))
    assert_same_step(fused, plain, (images(),))
    handle.remove()
    assert len(seen) == 1 and not fused_op
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), fused):
        assert_same_step(twin, plain, (images(),))
    assert len(fused_op) == 3
    fused[0] = plain[0] = nn.Conv2d(3, 2, 1).double()
    with pytest.warns(UserWarning, match="replaced"):
        fused(images())
    assert_same_step(fused, plain, (images(),), exact=True)
    assert len(fused_op) == 3


def test_convolution_alone_keeps_nothing_alive(fused_op):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.freed = []

        def forward(self, x):
            h = self.conv(x)
            output = weakref.ref(h)
            h = h.sum()
            self.freed.append(output() is None)
            return h

    model = fuse(double(Watched()))
    with torch.no_grad():
        model(images())
    assert fused_op == ["conv2d_bn_act"] and model.freed == [True]


@pytest.mark.parametrize("frozen", [True, False])
def test_convolution_alone_under_autocast_and_twice_differentiated(frozen, implementation):
    fused, plain = twins(nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Softplus(), nn.Conv2d(4, 2, 4)))
    assert list(fuse(fused, report=True)[1].alone) == ["0", "2"]
    for model in (fused, plain):
        model[0].requires_grad_(not frozen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, y_plain = fused(images().float()), plain(images().float())
    assert y.dtype == y_plain.dtype == torch.bfloat16
    assert_close(y.float(), y_plain.float(), 0.05, "under autocast")  # a few roundings of 2^-8
    penalties = []
    for model in (fused.double(), plain.double()):
        x = images().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        penalty, leaves = grad.square().sum(), [x, *(p for p in model.parameters() if p.requires_grad)]
        penalties.append(torch.autograd.grad(penalty, leaves, allow_unused=True, materialize_grads=True))
    for actual, expected in zip(*penalties, strict=True):
        assert_close(actual, expected, 1e-9, "second derivative", floor=1e-3)


@pytest.mark.parametrize("fullgraph", [True, False])
def test_convolution_alone_compiles(fullgraph, implementation):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Softplus(), nn.Conv2d(4, 2, 4))))
    compiled = torch.compile(fuse(fused), fullgraph=fullgraph, backend="aot_eager")
    compiled(images()).sum().backward()
    plain(images()).sum().backward()
    for p, q in zip(fused.parameters(), plain.parameters(), strict=True):
        assert_close(p.grad, q.grad, 1e-9, "gradient")
    torch._dynamo.reset()


def test_convolution_without_a_kernel_is_left(monkeypatch):
    asked = []
    monkeypatch.setattr(fastgan.nn.chains, "covered", lambda weight, *options: asked.append((*weight.shape, *options)))
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, (3, 2), 2, 1, output_padding=(0, 1)), nn.Sigmoid())
    _, report = fuse(model, report=True)
    assert (report.fused, report.alone) == ([], {})
    assert report.left == {"0": "it is followed by Sigmoid"}
    assert set(map(str, asked)) == {str((3, 4, 3, 2, [2, 2], [1, 1], [1, 1], True, [0, 1], 1))}
    assert type(model) is nn.Sequential and type(model[0]) is nn.ConvTranspose2d


# -- what is inside a chain when it is reached from outside ----------------------------------------------------------
def test_layers_called_alone_are_plain(fused_op):
    fused, plain = twins(double(DCGANGenerator()))
    fuse(fused)
    fused.eval()
    plain.eval()
    z = images(2, 6, 1, 1)
    a, b = z, z
    for layer, layer_plain in zip(fused.main, plain.main, strict=True):
        a, b = layer(a), layer_plain(b)
        assert torch.equal(a, b)
    assert torch.equal(fused.main[:4](z), plain.main[:4](z))
    assert not fused_op
    fused(z)
    assert len(fused_op) == 3


def test_hook_added_later_makes_its_chain_plain(fused_op):
    fused, plain = twins(double(DCGANGenerator()))
    fuse(fused)
    seen, seen_plain = [], []
    for model, into in ((fused, seen), (plain, seen_plain)):
        handle = model.main[3].register_forward_hook(lambda m, args, out, into=into: into.append(out.detach()))
    z = images(2, 6, 1, 1)
    assert_close(fused(z), plain(z), TOLERANCE, "output")
    assert len(fused_op) == 2
    assert_close(seen[0], seen_plain[0], TOLERANCE, "hooked output")
    del handle
    fused.main[3]._forward_hooks.clear()
    fused(z)
    assert len(fused_op) == 5


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooked_before_is_left(index, kind):
    model = conv_block(3, 4)
    getattr(model[index], kind)(lambda *args: None)
    report = fuse(model, report=True)[1]
    assert [str(chain) for chain in report.fused] == (["0 + 1"] if index == 2 else [])
    reasons = (report.left, report.alone, {})[index]
    assert ["hooks" in reason for reason in reasons.values()] == [True] * (index < 2)
    assert len(report.left) + len(report.alone) == (index < 2)


def test_global_hook_makes_everything_plain(fused_op):
    model = fuse(double(conv_block(3, 4)))
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m)))
    model(images())
    handle.remove()
    assert len(seen) == 4
    assert not fused_op


def test_instance_forward_set_later(fused_op):
    model = fuse(double(conv_block(3, 4)))
    model[1].forward = lambda x: torch.zeros_like(x)
    assert torch.equal(model(images()), torch.zeros(2, 4, 4, 4, dtype=torch.float64))
    assert not fused_op


# -- replaced modules ------------------------------------------------------------------------------------------------
REPLACEMENTS = {
    "conv": (0, lambda: nn.Conv2d(3, 4, 5)),
    "bn": (1, nn.Identity),
    "plain_bn": (1, lambda: nn.BatchNorm2d(4, eps=0.5)),
    "act": (2, nn.Softplus),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_replaced_module_unfuses_its_chain(name, fused_op):
    index, make = REPLACEMENTS[name]
    fused, plain = twins(double(nn.Sequential(*conv_block(3, 4), nn.Conv2d(4, 2, 1), nn.Tanh())))
    fuse(fused)
    new = make().double()
    fused[index] = new
    plain[index] = copy.deepcopy(new)
    with pytest.warns(UserWarning, match="replaced"):
        y = fused(images())
    assert_close(y, plain(images()), TOLERANCE, "output")
    assert len(fused_op) == 1
    assert type(fused[0]) is nn.Conv2d
    with no_warnings():
        assert_same_step(fused, plain, (images(),))


def test_convert_sync_batchnorm(fused_op):
    fused, plain = twins(double(DCGANGenerator()))
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(fuse(fused)).eval()
    plain.eval()
    z = images(2, 6, 1, 1)
    with pytest.warns(UserWarning, match="replaced"):
        assert_close(fused(z), plain(z), TOLERANCE, "output")
    assert fused_op == ["conv_transpose2d_bn_act"]  # the last chain has no norm
    assert fuse(fused, report=True)[1].alone["main.0"] == "it is followed by SyncBatchNorm"


def test_parametrised_later(fused_op):
    fused, plain = twins(double(conv_block(3, 4)))
    fuse(fused)
    for model in (fused, plain):
        torch.nn.utils.parametrizations.weight_norm(model[0])
    with pytest.warns(UserWarning, match="replaced"):
        fused(images())
    plain(images())
    assert_same_step(fused, plain, (images(),))
    assert not fused_op


def test_old_norms_are_left():
    for norm in (torch.nn.utils.spectral_norm, torch.nn.utils.weight_norm):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
        model(torch.randn(1, 3, 5, 5))
        report = fuse(model, report=True)[1]
        assert [chain.conv for chain in report.fused] == ["2"]
        assert "hooks" in report.left["0"]


# -- fusing again, elsewhere, and back -------------------------------------------------------------------------------
def test_fusing_twice_changes_nothing(fused_op):
    fused, plain = twins(double(DCGANGenerator()))
    first = str(fuse(fused, report=True)[1])
    assert str(fuse(fused, report=True)[1]) == first
    assert_same_step(fused, plain, (images(2, 6, 1, 1),))
    assert type(unfuse(fused).main) is nn.Sequential


def test_child_then_parent_and_parent_then_child(fused_op):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.block(x))

    for order in ("block, model", "model, block"):
        fused, plain = twins(double(Two()))
        for part in order.split(", "):
            report = fuse(fused if part == "model" else fused.block, report=True)[1]
        if order == "block, model":
            assert str(report.fused[0]) == "block.0 + block.1 + act"
        else:
            assert "already fused as part of a larger module" in report.left["0"]
        assert_same_step(fused, plain, (images(),))
        assert_close(fused.block(images()), plain.block(images()), TOLERANCE, "block alone")
    assert len(fused_op) == 2


def test_unfuse_of_a_part(fused_op):
    fused, plain = twins(double(nn.Sequential(conv_block(3, 4), conv_block(4, 4))))
    unfuse(fuse(fused)[0])
    assert_same_step(fused, plain, (images(),))
    assert len(fused_op) == 1


def test_same_block_in_two_places(fused_op):
    block = conv_block(4, 4)
    fused, plain = twins(double(nn.Sequential(block, nn.Tanh(), block)))
    assert len(fuse(fused, report=True)[1].fused) == 1
    assert_same_step(fused, plain, (images(2, 4, 9, 9),))
    assert len(fused_op) == 2


def test_two_outer_modules_around_one_convolution(fused_op):
    conv = nn.Conv2d(3, 4, 3)
    parts = [nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU()), nn.Sequential(conv, nn.Tanh())]
    fused, plain = twins(double(nn.ModuleList(parts)))
    assert len(fuse(fused, report=True)[1].fused) == 1
    for i in (0, 1):
        assert_same_step(fused[i], plain[i], (images(),))
    assert len(fused_op) == 1


def test_shared_norm_is_left_and_shared_activation_is_not(fused_op):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.c, self.d = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm, self.norm_d, self.act = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.LeakyReLU(0.5)

        def forward(self, x):
            x = self.act(self.norm(self.b(self.norm(self.a(x)))))
            c, d = self.c(x), self.norm_d(self.d(x))  # both are pending when the activation is first called
            return self.act(x - 1) + self.act(self.act(d) + self.act(c))

    fused, plain = twins(double(Shared()))
    report = fuse(fused, report=True)[1]
    assert [str(chain) for chain in report.fused] == ["c + act", "d + norm_d + act"]
    assert "called more than once" in report.alone["a"] and "called more than once" in report.alone["b"]
    assert_same_step(fused, plain, (images(),))
    assert len(fused_op) == 4


IN_PLACE = {
    "iadd": lambda h, x: h.__iadd__(x),
    "method": lambda h, x: h.add_(x),
    "function": lambda h, x: torch.nn.functional.relu(h, inplace=True),
    "positional": lambda h, x: torch.nn.functional.dropout(h, 0.0, True, True),
    "view": lambda h, x: h.view(2, -1).mul_(2),
}


@pytest.mark.parametrize("change", [*IN_PLACE, None])
def test_leaky_relu_changed_in_place(change, implementation):
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.LeakyReLU(0.2)

        def forward(self, x):
            h = self.act(self.conv(x))
            return h + x if change is None else IN_PLACE[change](h, x)

    fused, plain = twins(double(Adds()))
    report = fuse(fused, report=True)[1]
    assert report.fused if change is None else "in place" in report.alone["conv"]
    assert_same_step(fused, plain, (images(),))


def test_residual_block_adds_in_place(implementation):
    fused, plain = twins(double(ResidualBlock(3)))
    assert [str(chain) for chain in fuse(fused, report=True)[1].fused] == ["conv1 + bn1 + relu", "conv2 + bn2"]
    assert_same_step(fused, plain, (images(),), exact=implementation == "reference")


# -- forwards that take another path ---------------------------------------------------------------------------------
class Optional(nn.Module):
    """Optional arguments and switches, used by if."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.keep = False
        self.calls = 0

    def forward(self, x, mask=None, *, features=False):
        self.calls += 1
        h = self.conv(x)
        if mask is not None:
            h = h * mask
        y = self.bn(h)
        if features or self.keep:
            return y + h.sum()
        return y


def test_optional_arguments(fused_op):
    fused, plain = twins(double(Optional()))
    report = fuse(fused, report=True)[1]
    assert "with the optional arguments" in report.alone["conv"]  # with a mask a product takes its output
    x = images()
    for given in ((), ("mask",), ("features",), ("mask", "features")):
        kwargs = {"mask": {"mask": images(2, 1, 8, 8)}, "features": {"features": True}}
        arguments = {k: v for name in given for k, v in kwargs[name].items()}
        assert_close(fused(x, **arguments), plain(x, **arguments), TOLERANCE, str(given))
    assert len(fused_op) == 4


def test_optional_argument_that_cannot_be_traced(fused_op):
    class Flag(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.calls = 0

        def forward(self, x, features=False):
            self.calls += 1
            h = self.conv(x)
            return self.bn(h) + h if features else self.bn(h)

    fused, plain = twins(double(Flag()))
    fuse(fused)
    assert fused.calls == 0
    for call in ((), (False,), (True,)):
        assert_close(fused(images(), *call), plain(images(), *call), TOLERANCE, str(call))
    assert_close(fused(images(), features=True), plain(images(), features=True), TOLERANCE, "keyword")
    assert len(fused_op) == 2


class Switch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.keep = False
        self.alpha = 0.0

    def forward(self, x):
        h = self.conv(x)
        if self.alpha > 0.5:
            return h
        return self.bn(h) + h.sum() if self.keep else self.bn(h)


def test_switch_turned_later_runs_plain(fused_op):
    fused, plain = twins(double(Switch()))
    fuse(fused)
    fused.keep = plain.keep = True
    with pytest.warns(UserWarning, match="'keep' differs"):
        y = fused(images())
    assert_close(y, plain(images()), TOLERANCE, "output")
    assert not fused_op
    fused.keep = plain.keep = False
    with no_warnings():
        assert_same_step(fused, plain, (images(),))
    assert len(fused_op) == 1


def test_unforeseen_path_is_an_error_and_leaves_nothing_armed(fused_op):
    model = fuse(double(Switch()))
    plain = unfuse(copy.deepcopy(model))
    model.alpha = plain.alpha = 1.0
    with pytest.raises(RuntimeError, match="conv \\+ bn.*fastgan.unfuse"):
        model(images())
    assert torch.equal(model.conv(images()), plain.conv(images()))
    assert torch.equal(unfuse(model)(images()), plain(images()))


def test_exception_inside_leaves_nothing_armed(fused_op):
    class Interrupted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
            self.now = 0.0

        def forward(self, x):
            h = self.conv(x)
            if self.now:
                raise KeyboardInterrupt
            return self.act(self.bn(h))

    fused, plain = twins(double(Interrupted()))
    fuse(fused)
    fused.now = 1.0
    with pytest.raises(KeyboardInterrupt):
        fused(images())
    assert len(fused_op) == 1
    assert torch.equal(fused.conv(images()), plain.conv(images()))
    assert not any(vars(m).get("_armed") or vars(m).get("_expected") for m in fused.modules())


def test_forward_inside_forward(fused_op):
    class Recursive(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.deeper = 0.0

        def forward(self, x):
            if self.deeper:
                self.deeper = 0.0
                x = self(x)
            return self.bn(self.conv(x))

    fused, plain = twins(double(Recursive()))
    fuse(fused)
    fused.deeper = plain.deeper = 1.0
    assert_close(fused(images()), plain(images()), TOLERANCE, "output")
    assert len(fused_op) == 2
    assert not fused.conv._armed and not fused.bn._expected


def test_path_that_depends_on_the_mode(fused_op):
    class Modes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            h = self.conv(x)
            return self.bn(h) if self.training else self.bn(h) + h

    fused, plain = twins(double(Modes()))
    assert "train and eval" in fuse(fused, report=True)[1].alone["conv"]
    for mode in (True, False):
        assert_same_step(fused.train(mode), plain.train(mode), (images(),))


def test_threads_share_a_model(fused_op):
    """One thread is inside the root's forward while the other begins and ends its own."""
    entered, finished = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x):
            if threading.current_thread().name == "slow":
                entered.set()
                assert finished.wait(30)
            return x

    layers = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Waits(), nn.Conv2d(4, 4, 1), nn.ReLU()
    model = double(nn.Sequential(*layers)).eval()
    expected = model(images())
    fuse(model)
    results = []
    slow = threading.Thread(target=lambda: results.append(model(images())), name="slow")
    slow.start()
    assert entered.wait(30)
    results.append(model(images()))
    waiting = images(2, 4, 8, 8)
    conv_alone = model[3](waiting)  # armed in the other thread only
    finished.set()
    slow.join()
    for y in results:
        assert_close(y, expected, TOLERANCE, "output")
    assert torch.equal(conv_alone, unfuse(model)[3](waiting))
    assert len(fused_op) == 4


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant, fused_op):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.block = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), conv_block(4, 4)

        def wired(self, x):
            return self.bn(self.conv(x))

        def forward(self, x):
            h = torch.utils.checkpoint.checkpoint(self.wired, x, use_reentrant=reentrant)
            return torch.utils.checkpoint.checkpoint(self.block, h, use_reentrant=reentrant)

    fused, plain = twins(double(Checkpointed()))
    fuse(fused)
    assert_same_step(fused, plain, (images(),), buffers=reentrant)  # torch stops the second forward before the update
    assert len(fused_op) >= 2


# -- tracing leaves no traces ----------------------------------------------------------------------------------------
def test_tracing_touches_nothing():
    class Busy(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = conv_block(3, 4)
            self.register_buffer("steps", torch.zeros(()))
            self.features, self.last = [], None

        def forward(self, x):
            self.steps += 1
            self.last = self.block(x + torch.randn(1))
            self.features.append(self.last)
            return self.last

    model = Busy()
    called = []
    model.register_forward_hook(lambda *args: called.append(args))
    model.block.register_forward_pre_hook(lambda *args: called.append(args))
    state = torch.get_rng_state()
    with no_warnings():
        report = fuse(model, report=True)[1]
    assert len(report.fused) == 1
    assert not called and not model.features and model.last is None and model.steps == 0
    assert model.training and model.block.training
    assert torch.equal(torch.get_rng_state(), state)
    model(torch.randn(2, 3, 8, 8))
    assert len(called) == 2


def test_reasons_without_a_trace():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 3, 1)])
            self.spare = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            for _ in range(int(x.sum())):
                x = self.convs[0](x).relu()
            return x

    left = fuse(Loop(), report=True)[1].left
    assert "the model cannot be traced (TypeError" in left["convs.0"]
    assert fuse(nn.Conv2d(3, 3, 1), report=True)[1].left == {"": "it is the model itself"}
    assert fuse(nn.ModuleList([nn.Conv2d(3, 3, 1)]), report=True)[1].left == {"0": "no forward calls it"}
    assert fuse(nn.ReLU(), report=True)[1].left == {}


@pytest.mark.parametrize("function", [fuse, unfuse])
def test_other_things_are_refused(function):
    with pytest.raises(TypeError, match="model is a list; it takes a torch.nn.Module"):
        function([nn.Conv2d(3, 3, 1)])


# -- what models are put through -------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies(how, fused_op):
    fused, plain = twins(double(DCGANGenerator()))
    fuse(fused)
    z = images(2, 6, 1, 1)
    fused(z), plain(z)
    if how == "deepcopy":
        twin = copy.deepcopy(fused)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(fused))
    else:
        file = io.BytesIO()
        torch.save(fused, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    fused_op.clear()
    assert_same_step(twin, plain, (z,))
    assert len(fused_op) == 3
    assert twin.main[0].weight is not fused.main[0].weight
    twin.main[1] = nn.Identity()
    with no_warnings():
        fused(z)


def test_moves_and_state_dict(fused_op):
    fused, plain = fuse(DCGANGenerator()), double(DCGANGenerator())
    fused.double().requires_grad_(False).requires_grad_(True)
    fused.load_state_dict(plain.state_dict())
    fused.apply(lambda m: None)
    assert_same_step(fused, plain, (images(2, 6, 1, 1),))
    plain.load_state_dict(fused.state_dict())


def test_functional_call(fused_op):
    fused, plain = twins(double(conv_block(3, 4)))
    fuse(fused)
    weights = {name: torch.randn_like(p) for name, p in plain.named_parameters()}
    y = torch.func.functional_call(fused, weights, (images(),))
    assert_close(y, torch.func.functional_call(plain, weights, (images(),)), TOLERANCE, "output")
    assert len(fused_op) == 1


def test_function_transforms(implementation):
    fused, plain = twins(double(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))).eval())
    fuse(fused)
    x = images()

    def results(model):
        def loss(weights, x):
            return torch.func.functional_call(model, weights, (x.unsqueeze(0),)).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
        with torch.autograd.forward_ad.dual_level():
            y = model(torch.autograd.forward_ad.make_dual(x, x.cos()))
            tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
        return [
            *per_sample(dict(model.named_parameters()), x).values(),
            torch.func.jvp(model, (x,), (x.cos(),))[1],
            tangent,
            torch.func.jacrev(lambda x: model(x).sum((1, 2, 3)))(x),
        ]

    for actual, expected in zip(results(fused), results(plain), strict=True):
        assert_close(actual, expected, 1e-9, "transform")


def test_traced_and_exported(implementation):
    fused, plain = twins(double(conv_block(3, 4)).eval())
    fuse(fused)
    x = images()
    traced = torch.fx.symbolic_trace(fused)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
    assert_close(traced(x), plain(x), TOLERANCE, "fx")
    exported = torch.export.export(fused, (x,))
    assert "fastgan" not in str(exported.graph)
    assert_close(exported.module()(x), plain(x), TOLERANCE, "export")


def replicate(module):
    """nn.DataParallel's replicas, made on the CPU: shallow copies whose parameters are plain tensors."""
    modules = list(module.modules())
    copies = {m: m._replicate_for_data_parallel() for m in modules}
    for m in modules:
        for name, child in m._modules.items():
            setattr(copies[m], name, copies[child])
        for name, p in m._parameters.items():
            setattr(copies[m], name, None if p is None else p * 1)
        copies[m]._buffers = {name: b.clone() for name, b in m._buffers.items()}
    return copies[module]


def test_data_parallel_replicas(fused_op):
    fused, plain = twins(double(DCGANGenerator()))
    fuse(fused)
    replicas = [replicate(fused) for _ in range(2)]
    results = [None, None]

    def work(i):
        results[i] = replicas[i](images(2, 6, 1, 1))

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    y = plain(images(2, 6, 1, 1))
    assert len(fused_op) == 6
    for i in (0, 1):
        assert_close(results[i], y, TOLERANCE, "output")
        assert_close(replicas[i].main[1].running_var, plain.main[1].running_var, TOLERANCE, "replica's buffer")
    assert fused.main[1].num_batches_tracked == 0
    sum(r.sum() for r in results).backward()
    assert fused.main[0].weight.grad is not None


def test_wrapped_models(fused_op):
    """fuse looks into wrappers whose own forward cannot be traced."""
    fused, plain = twins(double(DCGANDiscriminator()))
    wrapped = nn.DataParallel(fused)
    report = fuse(wrapped, report=True)[1]
    assert [chain.conv for chain in report.fused] == ["module.main.0", "module.main.2"]
    assert report.alone == {"module.main.5": "it is followed by Sigmoid"}
    assert_same_step(wrapped.module, plain, (images(2, 3, 16, 16),))
    assert len(fused_op) == 3


def test_distributed_data_parallel(fused_op, tmp_path):
    fused, plain = twins(double(conv_block(3, 4)))

    def train() -> None:
        wrapped = nn.parallel.DistributedDataParallel(fuse(fused))
        for _ in range(2):
            wrapped(images()).square().sum().backward()
            plain(images()).square().sum().backward()

    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        train()
        gc.collect()  # a wrapper that outlives its group joins gloo's threads with the GIL that they are waiting for
    finally:
        torch.distributed.destroy_process_group()
    for p, q in zip(fused.parameters(), plain.parameters(), strict=True):
        assert_close(p.grad, q.grad, 1e-9, "gradient", floor=1.0)
    assert len(fused_op) == 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make", [DCGANGenerator, lambda: nn.Sequential(ResidualBlock(6), nn.Conv2d(6, 3, 1), nn.Tanh())]
)
def test_compiles_in_one_graph(make, training, implementation):
    fused, plain = twins(double(make()).train(training))
    fuse(fused)
    z = images(2, 6, 3, 3)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(z), plain(z), TOLERANCE, "output")
        compiled(z).sum().backward()
        plain(z).sum().backward()
    for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert_close(p.grad, q.grad, 1e-9, name, floor=10.0)
    for (name, b), b_plain in zip(fused.named_buffers(), plain.buffers(), strict=True):
        assert_close(b.double(), b_plain.double(), TOLERANCE, name)
    torch._dynamo.reset()


def test_parts_compile_in_one_graph(fused_op):
    fused, plain = twins(double(DCGANGenerator()).eval())
    fuse(fused)
    z = images(2, 6, 1, 1)
    for part, part_plain in ((fused.main, plain.main), (fused.main[0], plain.main[0])):
        compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
        assert_close(compiled(z), part_plain(z), TOLERANCE, "output")
    assert_close(fused(z), plain(z), TOLERANCE, "eager after compiled parts")
    fused.main.compile(backend="aot_eager")
    assert_close(fused(z), plain(z), TOLERANCE, "compiled part inside")
    torch._dynamo.reset()


def test_compiled_then_replaced(fused_op):
    fused, plain = twins(double(conv_block(3, 4)))
    compiled = torch.compile(fuse(fused), fullgraph=True, backend="aot_eager")
    assert_close(compiled(images()), plain(images()), TOLERANCE, "output")
    fused[1], plain[1] = nn.Identity(), nn.Identity()
    assert_close(compiled(images()), plain(images()), TOLERANCE, "output")
    torch._dynamo.reset()


def test_explicit_kernel_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(_library, "LOADED", False)
    monkeypatch.setattr(_library, "REASON", "built for another torch")
    model = fuse(double(conv_block(3, 4)))
    with use("kernel"), pytest.raises(NotImplementedError, match="built for another torch"):
        model(images())
    with use("auto"):
        assert torch.equal(model.eval()(images()), unfuse(copy.deepcopy(model))(images()))


def test_fused_classes_cover_each_other():
    for plain, swapped in fastgan.nn.fused._FUSED.items():
        assert issubclass(swapped, plain)
        assert plain.__name__ in swapped.__name__


def test_a_plain_call_and_a_fused_one_before_their_backward(fused_op, monkeypatch):
    """torch's batch norm saves its running statistics; that the next, fused call moves them is no reason to refuse."""
    plain, fused = twins(double(nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())))
    fuse(fused)
    small, large = images(2, 3, 8, 8), images(8, 3, 16, 16)
    for model in (plain, fused):
        with monkeypatch.context() as patch:  # as calls too small for a kernel, or in a precision without a faster one
            patch.setattr(fastgan.nn.fused, "takes_kernel", lambda *arguments: False)
            first = model(small)
        (first.square().sum() + model(large).square().sum()).backward()
    assert len(fused_op) == 1
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert_close(b.grad, a.grad, GRADIENT_TOLERANCE[torch.float64], name)
    for (name, a), b in zip(plain.named_buffers(), fused.buffers(), strict=True):
        assert_close(b.double(), a.double(), TOLERANCE, name)


def test_a_chain_no_kernel_takes_is_asked_about_once_for_each_size(fused_op, monkeypatch):
    asked = []

    def only_large(conv, x, *rest):
        asked.append(x.shape[-1])
        return x.shape[-1] > 8

    monkeypatch.setattr(fastgan.nn.fused, "takes_kernel", only_large)
    plain, fused = twins(double(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Tanh())))
    fuse(fused)
    for size, expected in ((12, [12, 10]), (10, [10, 8]), (10, [10]), (8, [8, 6]), (8, []), (12, [12, 10])):
        asked.clear()
        assert_close(fused(images(2, 3, size, size)), plain(images(2, 3, size, size)), TOLERANCE, f"{size} px")
        assert asked == expected
    asked.clear()
    with use("kernel"):  # another question
        fused(images(2, 3, 8, 8))
    pickle.loads(pickle.dumps(fused))(images(2, 3, 8, 8))
    assert asked == [8, 6]


@pytest.mark.parametrize("call", ["list", "number of threads", "autocast"])
def test_other_calls_are_asked_about_again(call, fused_op, monkeypatch):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return self.conv(images[0] if isinstance(images, list) else images)

    asked = []
    monkeypatch.setattr(fastgan.nn.fused, "takes_kernel", lambda *arguments: bool(asked.append(arguments)))
    model, x, threads = fuse(Block()), torch.randn(2, 3, 8, 8), torch.get_num_threads()
    given = [x] if call == "list" else x
    model(given)
    try:
        if call == "number of threads":
            torch.set_num_threads(threads + 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=call == "autocast"):
            model(given)
    finally:
        torch.set_num_threads(threads)
    assert len(asked) == 2


def test_models_without_data(implementation):
    """On the meta device, of which autocast knows nothing."""
    model = fuse(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())).to("meta")
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 8, 6, 6)
