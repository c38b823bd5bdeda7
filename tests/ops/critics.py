"""Critics of many families, sorted by the path that gradient_penalty has to take for them.

PIECEWISE_LINEAR and DOUBLE_BACKWARD: name -> function that makes (critic, critic_args, shape of x). The traps among
DOUBLE_BACKWARD look piecewise linear to a careless reader of the graph.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

IMAGE = (5, 3, 8, 8)
DTYPE = torch.float64


class Parts(nn.Module):
    """Layers for the forwards below to choose from."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.again = nn.Conv2d(8, 8, 3, 1, 1)
        self.linear = nn.Linear(8, 1)
        self.matrix = nn.Parameter(torch.randn(8, 8) * 0.3)
        self.offset = nn.Parameter(torch.randn(8, 1, 1))
        self.slope = nn.Parameter(torch.tensor(0.3))
        self.embedding = nn.Embedding(4, 8)
        self.act = nn.LeakyReLU(0.2)
        self.inplace = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.blocks = nn.ModuleDict({"a": nn.Conv2d(8, 8, 1), "b": nn.Conv2d(8, 8, 1)})
        self.listed = nn.ParameterList([nn.Parameter(torch.randn(8, 8, 1, 1) * 0.3)])
        self.register_buffer("order", torch.randperm(8))
        self.register_buffer("constant", torch.randn(8, 1, 1))
        self.register_buffer("calls", torch.zeros(()))
        self.history: list[object] = []
        self.last = None

    def head(self, h: torch.Tensor) -> torch.Tensor:
        return self.linear(F.leaky_relu(h, 0.2).mean((2, 3)))


def written(forward) -> nn.Module:
    """A fresh subclass of Parts with this forward(self, x, ...)."""
    return type("Critic", (Parts,), {"forward": forward})()


def parts(forward, *args: object):
    return lambda: (written(forward), args, IMAGE)


def chain(*layers) -> nn.Sequential:
    return nn.Sequential(*layers)


def dcgan(act=lambda: nn.LeakyReLU(0.2, inplace=True)) -> nn.Sequential:
    return chain(nn.Conv2d(3, 8, 4, 2, 1), act(), nn.Conv2d(8, 12, 4, 2, 1), act(), nn.Conv2d(12, 1, 2))


def ending(*layers) -> nn.Sequential:
    return chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), *layers)


class Residual(nn.Module):
    """Pre-activation ResNet critic with average-pooled skip, as WGAN-GP's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.skip = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        h = self.b(F.relu(self.a(x)))
        h = F.avg_pool2d(h, 2)
        h += self.skip(F.avg_pool2d(x, 2))
        return self.head(F.relu(h, inplace=True).mean([2, 3]))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(6, 3, 3, 3) * 0.2), nn.Parameter(torch.randn(6))
        self.w2 = nn.Parameter(torch.randn(1, 6 * 16) * 0.2)

    def forward(self, x):
        h = F.leaky_relu(F.conv2d(x, self.w1, self.b1, 2, padding=1), 0.1)
        return F.linear(h.view(x.size(0), -1), self.w2)


class Optional(nn.Module):
    """`if label is not None`: a branch that a proxy for label would take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(144, 1)

    def forward(self, x, label=None, shift=0.5):
        h = self.conv(x)
        if label is not None:
            h = h + label
        return self.linear(F.relu(h + shift).flatten(1))


class LabelPlane(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.conv, self.linear = nn.Embedding(4, 64), nn.Conv2d(4, 6, 3), nn.Linear(6, 1)

    def forward(self, x, label):
        plane = self.embedding(label).view(x.size(0), 1, x.size(2), x.size(3))
        return self.linear(F.relu(self.conv(torch.cat([x, plane], 1))).mean((2, 3)))


def scaled_residual(self, x):
    h = self.conv(x)
    return self.head(h + self.again(F.relu(h)) * 0.1)


def inplace_elsewhere(self, x):
    h = self.conv(x)
    kept = h.flatten(2)
    return self.linear(self.inplace(h).mean((2, 3))) + self.linear(kept.mean(2))


def inplace_on_a_view(self, x):
    h = self.conv(x)
    return self.linear(F.relu(h.flatten(2), inplace=True).mean(2)) + self.linear(h.mean((2, 3)))


def inplace_after_idle_dropout(self, x):
    h = self.conv(x)
    return self.linear(self.inplace(self.dropout.eval()(h)).mean((2, 3))) + self.linear(h.mean((2, 3)))


def add_assign_with_alias(self, x):
    h = self.conv(x)
    other_name = h
    h += 1.0
    return self.head(other_name * 1.0 + h)


def scale_assign_on_slice(self, x):
    h = self.conv(x)
    half = h[:, :4]
    half *= 3.0
    return self.head(h)


def assign_operators(self, x):
    h = self.conv(x)
    h += 1
    h *= 0.5
    h -= 0.3
    h /= 3
    return self.head(h)


def without_gradient(self, x):
    h = self.conv(x)
    with torch.no_grad():
        features = self.again(h)
    return self.head(h + features)


def minibatch_stddev(self, x):
    h = self.conv(x)
    return self.head(torch.cat([h[:, :7], h.std(0, keepdim=True).mean().expand(h.size(0), 1, 4, 4)], 1))


def projection(self, x, label):
    h = F.relu(self.conv(x)).mean((2, 3))
    return self.linear(h) + (h * self.embedding(label)).sum(1, keepdim=True)


def control_flow(self, x):
    h = self.conv(x)
    return self.head(h) if h.mean() > 0 else self.head(self.again(h))


def remembers(self, x):
    h = self.conv(x)
    self.last = h
    self.calls += 1
    self.history.append(h)
    return self.head(h)


def appends(self, x):
    h = self.conv(x)
    self.history.append(1)
    return self.head(h)


def own_weight(self, x):
    self.again.weight.data = self.matrix.data.view(8, 8, 1, 1).expand(8, 8, 3, 3).clone()
    return self.head(self.again(self.conv(x)))


def changes_a_parameter(self, x):
    self.offset.data.clamp_(-0.5, 0.5)
    return self.head(self.conv(x) + self.offset)


def variadic(self, x, *shifts):
    return self.head(self.conv(x) + shifts[0])


def keyword_only(self, x, *, shift=None):
    return self.head(self.conv(x) + (0.5 if shift is None else shift))


def hooked(kind: str):
    def make():
        critic = dcgan(nn.ReLU)
        if kind == "forward":
            critic[0].register_forward_hook(lambda module, inputs, output: output * 2)
        elif kind == "pre":
            critic[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
        else:
            critic[2].register_full_backward_hook(lambda module, grad_in, grad_out: (grad_in[0] * 2,))
        return critic, (), IMAGE

    return make


def monkeypatched():
    critic = dcgan()
    inner = critic[2].forward
    critic[2].forward = lambda x: inner(x) * 2
    return critic, (), IMAGE


class ScaledConv(nn.Conv2d):
    """Equalised learning rate: the weight used is computed from the parameter."""

    def forward(self, x):
        return F.conv2d(x, self.weight * 0.5, self.bias)


class Doubled(Functional):
    def __call__(self, x):
        return 2 * super().__call__(x)


def plain(module):
    return lambda: (module(), (), IMAGE)


PIECEWISE_LINEAR = {
    "dcgan": plain(dcgan),
    "dcgan relu": plain(lambda: dcgan(nn.ReLU)),
    "dcgan channels_last": plain(lambda: dcgan().to(memory_format=torch.channels_last)),
    "mlp": lambda: (
        chain(nn.Flatten(), nn.Linear(192, 16), nn.LeakyReLU(0.1), nn.Linear(16, 8), nn.ReLU(True), nn.Linear(8, 1)),
        (),
        IMAGE,
    ),
    "resnet": plain(Residual),
    "functional": plain(Functional),
    "nested": plain(lambda: chain(chain(nn.Conv2d(3, 4, 3), nn.ReLU()), chain(nn.Flatten(), chain(nn.Linear(144, 1))))),
    "conv1d": lambda: (chain(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1)), (), (4, 2, 10)),
    "conv3d": lambda: (
        chain(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4, 1)),
        (),
        (3, 2, 4, 4, 4),
    ),
    "conv_transpose": plain(
        lambda: chain(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 1))
    ),
    "adaptive pool": plain(
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 1))
    ),
    "pixel_unshuffle": plain(
        lambda: chain(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    ),
    "eval dropout": plain(lambda: ending(nn.Dropout(0.5), nn.Linear(8, 1)).eval()),
    "global mean": parts(lambda self, x: self.head(self.conv(x)).mean()),
    "mean over the batch": parts(
        lambda self, x: (lambda h: self.linear(F.relu(h - h.mean(0, keepdim=True))))(self.conv(x).mean((2, 3)))
    ),
    "vector through linear": parts(lambda self, x: self.linear(F.relu(self.conv(x)).mean((0, 2, 3)))),
    "cat of feature maps": parts(
        lambda self, x: (lambda h: self.linear(F.relu(torch.cat([h[:, :4], self.again(h)[:, 4:]], 1)).mean((2, 3))))(
            self.conv(x)
        )
    ),
    "cat with itself": parts(lambda self, x: self.head(torch.cat([self.conv(x)[:, :4]] * 2, 1))),
    "cat with a constant": parts(
        lambda self, x, c: self.head(torch.cat([self.conv(x)[:, :7], c], 1)), torch.randn(5, 1, 4, 4, dtype=DTYPE)
    ),
    "layer used twice": parts(lambda self, x: self.head(self.again(F.relu(self.again(F.relu(self.conv(x))))))),
    "weight in two roles": parts(
        lambda self, x: F.linear(F.relu(F.linear(self.conv(x).mean((2, 3)), self.matrix)), self.matrix)
    ),
    "ModuleDict": parts(lambda self, x: self.head(self.blocks["b"](F.relu(self.blocks["a"](self.conv(x)))))),
    "ParameterList": parts(lambda self, x: self.head(F.conv2d(self.conv(x), self.listed[0]))),
    "conv2d, positional arguments": parts(
        lambda self, x: self.head(F.conv2d(x, self.conv.weight, self.conv.bias, 2, 1, 2, 1))
    ),
    "conv2d, lists": parts(lambda self, x: self.head(F.conv2d(x, self.conv.weight, None, [2], padding=(1, 0)))),
    "view": parts(lambda self, x: self.linear(F.relu(self.conv(x)).view(x.size(0), 8, -1).mean(2))),
    "views between convs": parts(
        lambda self, x: self.head(self.again(F.relu(self.conv(x)).view(x.size(0), -1).view(-1, 8, 4, 4)))
    ),
    "scaled residual": parts(scaled_residual),
    "broadcasting add": parts(lambda self, x: (lambda h: self.head(h + h.mean((2, 3), keepdim=True)))(self.conv(x))),
    "parameter added": parts(lambda self, x: self.head(self.conv(x) + self.offset)),
    "buffer subtracted": parts(lambda self, x: self.head(self.conv(x) - self.constant)),
    "from a buffer subtracted": parts(lambda self, x: self.head(self.constant - self.conv(x))),
    "from a number subtracted": parts(lambda self, x: self.head(1 - self.conv(x))),
    "method add of a number": parts(lambda self, x: self.head(self.conv(x).add(2.0))),
    "method sub of a number": parts(lambda self, x: self.head(self.conv(x).sub(2.0))),
    "torch.add other=": parts(lambda self, x: self.head(torch.add(self.conv(x), other=2.0))),
    "size added": parts(lambda self, x: self.head(self.conv(x) + x.size(1))),
    "integers added": parts(lambda self, x, i: self.head(self.conv(x) + i), torch.arange(8).view(8, 1, 1)),
    "permuted by an index buffer": parts(lambda self, x: self.head(self.again(self.conv(x)[:, self.order]))),
    "masked by an argument": parts(
        lambda self, x, m: self.linear(self.conv(x)[:, :, m].sum(2)), torch.rand(4, 4) > 0.4
    ),
    "assignment operators": parts(assign_operators),
    "optional argument absent": plain(Optional),
    "optional argument given": lambda: (Optional(), (torch.randn(5, 4, 1, 1, dtype=DTYPE),), IMAGE),
    "number as argument": lambda: (Optional(), (torch.randn(5, 4, 1, 1, dtype=DTYPE), 3.0), IMAGE),
    "label plane": lambda: (LabelPlane(), (torch.tensor([0, 1, 2, 3, 0]),), IMAGE),
    "DataParallel": plain(lambda: nn.DataParallel(dcgan())),
}

DOUBLE_BACKWARD = {
    "batch norm": plain(
        lambda: chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
    ),
    "batch norm eval": plain(
        lambda: chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).eval()
    ),
    "layer norm": plain(lambda: ending(nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))),
    "instance norm": plain(
        lambda: chain(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
    ),
    "spectral_norm": plain(
        lambda: chain(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).eval()
    ),
    "weight_norm": plain(
        lambda: chain(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
    ),
    "parametrised spectral_norm": plain(
        lambda: chain(
            parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)
        ).eval()
    ),
    "parametrised weight_norm": plain(
        lambda: chain(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
    ),
    "forward hook": hooked("forward"),
    "forward pre-hook": hooked("pre"),
    "backward hook": hooked("backward"),
    "forward of the instance": monkeypatched,
    "own __call__": plain(Doubled),
    "tanh": plain(lambda: ending(nn.Tanh(), nn.Linear(8, 1))),
    "sigmoid at the end": plain(lambda: ending(nn.Linear(8, 1), nn.Sigmoid())),
    "softplus": plain(lambda: ending(nn.Softplus(), nn.Linear(8, 1))),
    "gelu": plain(lambda: ending(nn.GELU(), nn.Linear(8, 1))),
    "prelu": plain(lambda: ending(nn.PReLU(), nn.Linear(8, 1))),
    "relu6": plain(lambda: ending(nn.ReLU6(), nn.Linear(8, 1))),
    "hardtanh": plain(lambda: ending(nn.Hardtanh(), nn.Linear(8, 1))),
    "negative slope": plain(lambda: ending(nn.LeakyReLU(-0.2), nn.Linear(8, 1))),
    "max pool": plain(lambda: chain(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 1))),
    "upsample": plain(
        lambda: chain(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 1))
    ),
    "reflect padding": plain(
        lambda: chain(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1))
    ),
    "padding same": plain(
        lambda: chain(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1))
    ),
    "square at the end": parts(lambda self, x: self.head(self.conv(x)) ** 2),
    "product of features": parts(lambda self, x: (lambda h: self.head(h * h))(self.conv(x))),
    "scaled by a parameter": parts(lambda self, x: self.head(self.conv(x) * self.slope)),
    "divided by the input": parts(lambda self, x: self.head(1 / (self.conv(x) + 10))),
    "add with alpha": parts(lambda self, x: (lambda h: self.head(torch.add(h, self.again(h), alpha=2)))(self.conv(x))),
    "absolute value": parts(lambda self, x: self.head(self.conv(x).abs())),
    "detached branch": parts(lambda self, x: (lambda h: self.head(h + h.detach()))(self.conv(x))),
    "branch through .data": parts(lambda self, x: (lambda h: self.head(h + h.data))(self.conv(x))),
    "no_grad branch": parts(without_gradient),
    "minibatch stddev": parts(minibatch_stddev),
    "projection": parts(projection, torch.tensor([0, 1, 2, 3, 0])),
    "control flow on data": parts(control_flow),
    "writes attributes": parts(remembers),
    "appends to a list": parts(appends),
    "assigns a weight": parts(own_weight),
    "changes a parameter": parts(changes_a_parameter),
    "tied transposed weight": parts(
        lambda self, x: F.linear(F.relu(F.linear(self.conv(x).mean((2, 3)), self.matrix)), self.matrix.t())
    ),
    "row of a weight as bias": parts(lambda self, x: F.linear(self.conv(x).mean((2, 3)), self.matrix, self.matrix[0])),
    "weight from a buffer": parts(
        lambda self, x: F.conv2d(self.conv(x), self.constant.view(8, 1, 1, 1), groups=8).flatten(1).mean(1)
    ),
    "weight depends on input": parts(lambda self, x: F.linear(self.conv(x).mean((2, 3)), self.conv(x).mean((2, 3)))),
    "equalised weight": plain(lambda: chain(ScaledConv(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))),
    "inplace, input used elsewhere": parts(inplace_elsewhere),
    "inplace on a view": parts(inplace_on_a_view),
    "inplace after idle dropout": parts(inplace_after_idle_dropout),
    "add-assign with an alias": parts(add_assign_with_alias),
    "scale-assign on a slice": parts(scale_assign_on_slice),
    "variadic": parts(variadic, torch.randn(8, 1, 1, dtype=DTYPE)),
    "keyword only": parts(keyword_only),
    "no batch dimension": lambda: (chain(nn.Conv1d(5, 4, 3), nn.ReLU(), nn.Linear(8, 1)), (), (5, 10)),
}


def double_backward(critic, real, fake, epsilon, args=(), weight=10.0, target=1.0, one_sided=False) -> torch.Tensor:
    """The penalty as a user would write it in plain PyTorch."""
    epsilon = epsilon.view(-1, *[1] * (real.dim() - 1))
    x = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
    (g,) = torch.autograd.grad(critic(x, *args).sum(), x, create_graph=True)
    distance = g.flatten(1).norm(dim=1) - target
    return weight * (distance.clamp(min=0) if one_sided else distance).square().mean()


def images(shape=IMAGE, dtype=DTYPE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(real, fake, epsilon)."""
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype), torch.rand(shape[0], dtype=dtype)


def gradients(module: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """By name; zeros where autograd gives None."""
    module.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in module.named_parameters()
        if p.requires_grad
    }


def linear_critic(features: int = 6) -> tuple[nn.Module, torch.Tensor]:
    """D(x) = <w, x>, and w."""
    critic = chain(nn.Flatten(), nn.Linear(features, 1)).to(DTYPE)
    return critic, critic[1].weight.detach().flatten()


def norm(v: torch.Tensor) -> float:
    return math.sqrt(float((v**2).sum()))
