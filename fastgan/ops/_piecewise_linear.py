"""Critics that are piecewise linear in their input: how they are recognised, and their analytic gradient penalty.

A critic made of convolutions, linear layers, ReLU / LeakyReLU and linear plumbing (add, cat, view, mean, average pool)
has, with its activation masks m held fixed,

    adjoints   d_l = dD/dh_l     one backward sweep from D's output; at the input, g = dD/dx_hat
    v          = dP/dg           from the per-sample norms of g
    tangents   t_l               one forward sweep of v through the same layers, without biases, same masks
    dP/dW_l    = the weight gradient of layer l for input t_{l-1} and output gradient d_l;   dP/db_l = 0

which costs four forward-equivalents (forward, backward data, forward, backward weight) where double backward costs six.
It is exact almost everywhere, as the derivative of ReLU is.

torch.fx finds the operations; what it cannot see, or what is not in the tables below, is refused with a reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastgan.ops._penalty_ops import leaky_mask_mul, penalty_and_gradient
from fastgan.ops.bn_act import apply_activation

__all__ = ["NotPiecewiseLinear", "Program", "trace"]

Tensor = torch.Tensor


class NotPiecewiseLinear(Exception):
    """Carries the reason why the analytic path does not apply."""


# Linear in all their tensor arguments together, with no parameters: tangents go through the same call.
_LINEAR_FUNCTIONS = {
    operator.add, operator.sub, operator.neg, operator.getitem, torch.add, torch.sub, torch.neg, torch.cat, torch.concat,
    torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.permute, torch.transpose, torch.mean, torch.sum,
    torch.stack, torch.movedim, torch.clone, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.pixel_shuffle, F.pixel_unshuffle,
}  # fmt: skip
_LINEAR_METHODS = {
    "add", "sub", "neg", "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "mean", "sum",
    "contiguous", "clone", "unflatten", "movedim",
}  # fmt: skip
_LINEAR_MODULES = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SCALINGS = {operator.mul, operator.truediv, torch.mul, torch.div}  # linear where the other operand is a number
_SHAPE_METHODS = {"size", "dim", "numel", "stride"}
_SHAPE_ATTRIBUTES = {"shape", "ndim", "device", "dtype"}
_ACTIVATIONS = {  # and the names of their arguments
    F.relu: ("input", "inplace"),
    torch.relu: ("input",),
    F.leaky_relu: ("input", "negative_slope", "inplace"),
}
_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONV_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


# -- steps: each knows value, adjoint and tangent of one x-dependent node ------------------------------------------------


class _Plumbing:
    """A parameter-free linear operation on one or several tensors."""

    def __init__(self, call: Callable[..., Tensor], inputs: list[fx.Node]) -> None:
        self.call, self.inputs = call, inputs

    def forward(self, values: list[Tensor]) -> Tensor:
        with torch.enable_grad():
            self.leaves = [v.detach().requires_grad_() for v in values]
            self.output = self.call(*self.leaves)
        return self.output.detach()

    def adjoint(self, d: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad(self.output, self.leaves, d.expand_as(self.output), allow_unused=True)
        del self.output, self.leaves
        return list(grads)

    def tangent(self, tangents: list[Tensor]) -> Tensor:
        return self.call(*tangents, tangent=True)


class _Activation:
    """ReLU (negative_slope 0) or LeakyReLU; its mask is the sign of its output."""

    def __init__(self, negative_slope: float, inputs: list[fx.Node]) -> None:
        self.negative_slope, self.inputs = negative_slope, inputs

    def forward(self, values: list[Tensor]) -> Tensor:
        self.y = apply_activation(values[0], "leaky_relu", self.negative_slope)
        return self.y

    def adjoint(self, d: Tensor) -> list[Tensor]:
        return [leaky_mask_mul(d, self.y, self.negative_slope)]

    def tangent(self, tangents: list[Tensor]) -> Tensor:
        return leaky_mask_mul(tangents[0], self.y, self.negative_slope)


class _Alias:
    """A node whose work the step before it has done."""

    def __init__(self, inputs: list[fx.Node]) -> None:
        self.inputs = inputs

    def forward(self, values: list[Tensor]) -> Tensor:
        return values[0]

    def adjoint(self, d: Tensor) -> list[Tensor]:
        return [d]

    def tangent(self, tangents: list[Tensor]) -> Tensor:
        return tangents[0]


class _Layer:
    """A convolution or linear layer (act(W * h + b) where an activation is fused into it)."""

    def __init__(self, weight: nn.Parameter, bias: Tensor | None, inputs: list[fx.Node], activation: float | None):
        self.parameter, self.bias, self.inputs, self.activation = weight, bias, inputs, activation

    def forward(self, values: list[Tensor]) -> Tensor:
        self.h = values[0]
        self.weight = self.parameter.detach().to(self.h.dtype)
        bias = None if self.bias is None else self.bias.detach().to(self.h.dtype)
        z = self.apply(self.h, bias)
        if self.activation is None:
            return z
        self.y = F.leaky_relu_(z, self.activation)
        return self.y

    def adjoint(self, d: Tensor) -> list[Tensor]:
        if self.activation is not None:
            d = leaky_mask_mul(d, self.y, self.activation)
        self.d = d
        return [self.adjoint_data(d)]

    def tangent(self, tangents: list[Tensor]) -> Tensor:
        self.t = tangents[0]
        out = self.apply(self.t, None)
        return out if self.activation is None else leaky_mask_mul(out, self.y, self.activation)

    def apply(self, h: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def adjoint_data(self, d: Tensor) -> Tensor:
        raise NotImplementedError

    def weight_gradient(self) -> Tensor:
        """dP/dW from the tangent that came in and the adjoint that came out."""
        raise NotImplementedError


class _Linear(_Layer):
    def apply(self, h: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(h, self.weight, bias)

    def adjoint_data(self, d: Tensor) -> Tensor:
        return d @ self.weight

    def weight_gradient(self) -> Tensor:
        return self.d.flatten(0, -2).t() @ self.t.flatten(0, -2)


class _Convolution(_Layer):
    def __init__(self, weight, bias, inputs, activation, stride, padding, dilation, transposed, output_padding, groups):
        super().__init__(weight, bias, inputs, activation)
        self.geometry = (stride, padding, dilation, transposed, output_padding, groups)

    def apply(self, h: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.aten.convolution(h, self.weight, bias, *self.geometry)

    def adjoint_data(self, d: Tensor) -> Tensor:
        return self._backward(self.h, d, (True, False, False))[0]

    def weight_gradient(self) -> Tensor:
        return self._backward(self.t, self.d, (False, True, False))[1]

    def _backward(self, h: Tensor, d: Tensor, need: tuple[bool, bool, bool]):
        return torch.ops.aten.convolution_backward(d, h, self.weight, None, *self.geometry, need)


# -- recognising -------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Looks into user modules; torch's own layers and fastgan's fused ones are leaves."""

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return False
        return type(m).__module__.startswith("torch.nn") or hasattr(m, "piecewise_linear_form")


def _refuse_what_fx_cannot_see(critic: nn.Module) -> None:
    for name, module in critic.named_modules():
        where = name or type(critic).__name__
        if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)):
            raise NotPiecewiseLinear(f"{where} has hooks")
        if hasattr(module, "parametrizations"):
            raise NotPiecewiseLinear(f"{where} is parametrised")
        if "forward" in module.__dict__:
            raise NotPiecewiseLinear(f"{where} has a forward of its own instance")


def _traced(critic: nn.Module, n_args: int) -> fx.Graph:
    """The critic's graph; a forward that writes to its module while traced is put back and refused."""
    before = {m: dict(m.__dict__) for m in critic.modules() if not type(m).__module__.startswith("torch.nn")}
    try:
        graph = _Tracer().trace(critic)
    except Exception as error:  # control flow on data, len() of a proxy, ...: fx raises many kinds
        raise NotPiecewiseLinear(f"torch.fx cannot trace it ({str(error).splitlines()[0]})") from error
    finally:
        changed = [m for m, attributes in before.items() if _differs(m.__dict__, attributes)]
        for m in changed:
            m.__dict__.clear()
            m.__dict__.update(before[m])
    if changed:
        raise NotPiecewiseLinear(f"{type(changed[0]).__name__}.forward writes to its module")
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    required = [node for node in placeholders if not node.args]
    if not len(required) <= 1 + n_args <= len(placeholders):
        raise NotPiecewiseLinear(f"its forward takes {len(placeholders)} arguments, {1 + n_args} are given")
    return graph


def _differs(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() != before.keys() or any(now[k] is not before[k] for k in before)


class Program:
    """The steps of one piecewise-linear critic, good for one evaluation."""

    def __init__(self, critic: nn.Module, graph: fx.Graph) -> None:
        self.critic, self.graph = critic, graph
        self.modules = dict(critic.named_modules())
        self.steps: dict[fx.Node, Any] = {}  # x-dependent nodes, in order of execution
        self.constants: dict[fx.Node, Any] = {}
        self._dependent: set[fx.Node] = set()
        self._build()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Each weight and bias once, in order of first use."""
        layers = [step for step in self.steps.values() if isinstance(step, _Layer)]
        used = (p for layer in layers for p in (layer.parameter, layer.bias))
        return list(dict.fromkeys(p for p in used if isinstance(p, nn.Parameter)))

    # building: which node is what
    def _build(self) -> None:
        self.arguments = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.x = self.arguments[0]
        self._dependent.add(self.x)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                self.output = node.args[0]
                if not isinstance(self.output, fx.Node):
                    raise NotPiecewiseLinear("its forward does not return one tensor")
                continue
            inputs = [n for n in node.all_input_nodes if n in self._dependent]
            if inputs and not self._is_shape_query(node):  # all others are values that the input's gradient never sees
                self.steps[node] = self._merged(node, self._step(node, inputs))
                self._dependent.add(node)
        if self.output not in self._dependent:
            raise NotPiecewiseLinear("its output does not depend on its input")

    def _merged(self, node: fx.Node, step: Any) -> Any:
        """An activation that alone reads a layer's output becomes part of that layer: one buffer, one pass."""
        if not isinstance(step, _Activation):
            return step
        before = self.steps.get(step.inputs[0])
        if not isinstance(before, _Layer) or before.activation is not None or len(step.inputs[0].users) > 1:
            return step
        before.activation = step.negative_slope
        return _Alias(step.inputs)

    def _is_shape_query(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return node.target in _SHAPE_METHODS
        return node.op == "call_function" and node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES

    def _step(self, node: fx.Node, inputs: list[fx.Node]) -> Any:
        if node.op == "call_module":
            return self._module_step(node, self.modules[node.target], inputs)
        if node.op == "call_function":
            return self._function_step(node, node.target, inputs)
        if node.op == "call_method" and node.target in _LINEAR_METHODS and "alpha" not in node.kwargs:
            return self._plumbing(node, lambda first, *a, **k: getattr(first, node.target)(*a, **k))
        raise NotPiecewiseLinear(f"operation {node.target!r} is not known to be piecewise linear")

    def _plumbing(self, node: fx.Node, function: Callable[..., Tensor]) -> _Plumbing:
        inputs = list(dict.fromkeys(n for n in node.all_input_nodes if n in self._dependent))

        def call(*values: Tensor, tangent: bool = False) -> Tensor:
            given = dict(zip(inputs, values, strict=True))

            def lookup(n: fx.Node) -> Any:
                if n in given:
                    return given[n]
                constant = self.constants[n]
                return torch.zeros_like(constant) if tangent and isinstance(constant, Tensor) else constant

            return function(*fx.node.map_arg(node.args, lookup), **fx.node.map_arg(node.kwargs, lookup))

        return _Plumbing(call, inputs)

    def _function_step(self, node: fx.Node, function: Callable[..., Any], inputs: list[fx.Node]) -> Any:
        if function in (operator.add, operator.sub, torch.add, torch.sub) and not all(
            isinstance(a, fx.Node) for a in node.args
        ):
            return self._shift(node)
        if function in _LINEAR_FUNCTIONS and "alpha" not in node.kwargs:
            return self._plumbing(node, function)
        if function in _SCALINGS and sum(isinstance(a, fx.Node) for a in node.args) == 1 and not node.kwargs:
            if function in (operator.truediv, torch.div) and not isinstance(node.args[0], fx.Node):
                raise NotPiecewiseLinear("it divides by a function of its input")
            return self._plumbing(node, function)
        if function in _ACTIVATIONS:
            bound = dict(zip(_ACTIVATIONS[function], node.args)) | dict(node.kwargs)  # noqa: B905
            slope = bound.get("negative_slope", 0.01) if function is F.leaky_relu else 0.0
            return self._activation(node, inputs, slope, bound.get("inplace", False))
        if function in _CONVOLUTIONS or function is F.linear:
            return self._functional_layer(node, function, inputs)
        name = getattr(function, "__name__", function)
        raise NotPiecewiseLinear(f"operation {name!r} is not known to be piecewise linear")

    def _shift(self, node: fx.Node) -> _Plumbing:
        """x + number: linear but for the constant, which the tangent does not see."""
        if len(node.all_input_nodes) != 1 or node.kwargs:
            raise NotPiecewiseLinear("it adds something that is neither tensor nor number")
        negated = node.target in (operator.sub, torch.sub) and not isinstance(node.args[0], fx.Node)
        plain = self._plumbing(node, node.target)

        def call(value: Tensor, tangent: bool = False) -> Tensor:
            return (-value if negated else value) if tangent else plain.call(value)

        return _Plumbing(call, plain.inputs)

    def _activation(self, node: fx.Node, inputs: list[fx.Node], negative_slope: float, inplace: bool) -> _Activation:
        if inplace and len(inputs[0].users) > 1:
            raise NotPiecewiseLinear(f"{node.name} changes a tensor in place that is used elsewhere")
        if not isinstance(negative_slope, (int, float)) or negative_slope < 0:
            raise NotPiecewiseLinear(f"{node.name} has negative_slope {negative_slope}")
        return _Activation(float(negative_slope), inputs)

    def _module_step(self, node: fx.Node, module: nn.Module, inputs: list[fx.Node]) -> Any:
        if len(node.args) != 1 or node.kwargs or len(inputs) != 1:
            raise NotPiecewiseLinear(f"{node.target} is called with more than one tensor")
        form = getattr(module, "piecewise_linear_form", None)
        activation = None
        if form is not None:  # a fused module says what it computes: its plain class, and the activation behind it
            kind, activation = form()
            if kind is None:
                raise NotPiecewiseLinear(f"{node.target}: {activation}")
        else:
            kind = type(module)
        if kind in (nn.ReLU, nn.LeakyReLU):
            slope = module.negative_slope if kind is nn.LeakyReLU else 0.0
            return self._activation(node, inputs, slope, module.inplace)
        if kind in _LINEAR_MODULES or (kind in _DROPOUTS and not module.training):
            return self._plumbing(node, nn.Identity() if kind in _DROPOUTS + (nn.Identity,) else module)
        if kind is nn.Linear:
            return _Linear(module.weight, module.bias, inputs, activation)
        if kind in _CONV_MODULES and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            return _Convolution(
                module.weight, module.bias, inputs, activation, module.stride, module.padding, module.dilation,
                module.transposed, module.output_padding, module.groups,
            )  # fmt: skip
        raise NotPiecewiseLinear(f"{node.target} ({kind.__name__}) is not known to be piecewise linear")

    def _functional_layer(self, node: fx.Node, function: Callable[..., Tensor], inputs: list[fx.Node]) -> _Layer:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        bound = dict(zip(names, node.args)) | dict(node.kwargs)  # noqa: B905
        if bound["input"] not in self._dependent or len(inputs) != 1:
            raise NotPiecewiseLinear(f"{node.name}: its weight depends on the input")
        weight, bias = bound["weight"], bound.get("bias")
        if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
            raise NotPiecewiseLinear(f"{node.name}: its weight is computed")
        weight, bias = (None if n is None else self._attribute(n) for n in (weight, bias))
        if not isinstance(weight, nn.Parameter):
            raise NotPiecewiseLinear(f"{node.name}: its weight is not a parameter")
        if function is F.linear:
            return _Linear(weight, bias, inputs, None)
        spatial = _CONVOLUTIONS[function]

        def per_axis(name: str, default: int) -> list[int]:
            value = bound.get(name, default)
            if isinstance(value, str) or isinstance(value, fx.Node):
                raise NotPiecewiseLinear(f"{node.name}: {name}={value!r}")
            return [value] * spatial if isinstance(value, int) else list(value)

        stride, padding, dilation = per_axis("stride", 1), per_axis("padding", 0), per_axis("dilation", 1)
        return _Convolution(
            weight, bias, inputs, None, stride, padding, dilation, False, [0] * spatial, bound.get("groups", 1)
        )

    def _attribute(self, node: fx.Node) -> Any:
        return operator.attrgetter(node.target)(self.critic)

    # running
    def _evaluate(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args = fx.node.map_arg(node.args, lambda n: values[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: values[n])
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "call_module":
            return self.modules[node.target](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)

    def run(self, x_hat: Tensor, critic_args: tuple, weight: float, target: float, one_sided: bool, gradients: bool):
        """(P, {parameter: dP/dparameter}); the second is empty where ``gradients`` is False."""
        values = self._forward(x_hat, critic_args)
        g = self._adjoints(values, x_hat)
        value, v = penalty_and_gradient(g, weight, target, one_sided)
        return value, self._weight_gradients(v) if gradients else {}

    def _forward(self, x_hat: Tensor, critic_args: tuple) -> dict[fx.Node, Any]:
        values: dict[fx.Node, Any] = dict(zip(self.arguments, (x_hat, *critic_args)))  # noqa: B905
        for node in self.arguments[1 + len(critic_args) :]:
            values[node] = node.args[0]  # its default
        self.constants = values
        last_use = {n: node for node in self.graph.nodes for n in node.all_input_nodes}
        for node in self.graph.nodes:
            if node in self.steps:
                step = self.steps[node]
                values[node] = step.forward([values[n] for n in step.inputs])
            elif node.op not in ("placeholder", "output"):
                values[node] = self._evaluate(node, values)
            for n in node.all_input_nodes:  # values that no later node reads live on only where a step keeps them
                if n in self.steps and last_use[n] is node and node.op != "output":
                    del values[n]
        return values

    def _adjoints(self, values: dict[fx.Node, Any], x_hat: Tensor) -> Tensor:
        adjoints = {self.output: torch.ones_like(values[self.output])}
        for node, step in reversed(self.steps.items()):
            d = adjoints.pop(node, None)
            step.reached = d is not None
            if d is None:
                continue  # a dead end of the graph
            for n, contribution in zip(step.inputs, step.adjoint(d), strict=True):
                if contribution is not None:
                    adjoints[n] = adjoints[n] + contribution if n in adjoints else contribution
        return adjoints.get(self.x, torch.zeros_like(x_hat))

    def _weight_gradients(self, v: Tensor) -> dict[nn.Parameter, Tensor]:
        tangents = {self.x: v}
        gradients: dict[nn.Parameter, Tensor] = {}
        biases = (step.bias for step in self.steps.values() if isinstance(step, _Layer))
        gradients.update({b: torch.zeros_like(b) for b in biases if isinstance(b, nn.Parameter)})
        remaining = {n: len(n.users) for n in (self.x, *self.steps)}
        for node, step in self.steps.items():
            tangents[node] = step.tangent([tangents[n] for n in step.inputs])
            layer = isinstance(step, _Layer)
            if layer and step.reached and step.parameter.requires_grad:
                gradient = step.weight_gradient().to(step.parameter.dtype)
                known = gradients.get(step.parameter)
                gradients[step.parameter] = gradient if known is None else known + gradient
            for n in node.all_input_nodes:
                if n in remaining:
                    remaining[n] -= 1
                    if not remaining[n]:
                        tangents.pop(n, None)
            if layer:
                step.d = step.t = step.h = None
        return gradients


def trace(critic: nn.Module, n_args: int = 0) -> Program:
    """The critic as a Program. Raises NotPiecewiseLinear with the reason where the analytic path does not apply.

    Traced anew at every call: modules, modes, hooks and Python attributes may change between calls.
    """
    _refuse_what_fx_cannot_see(critic)
    return Program(critic, _traced(critic, n_args))
