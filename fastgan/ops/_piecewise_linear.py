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

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.ops._convolution import convolution, convolution_backward
from fastgan.ops._dispatch import autocasts
from fastgan.ops._penalty_ops import leaky_mask_mul, penalty_and_gradient
from fastgan.ops.bn_act import apply_activation

__all__ = ["NotPiecewiseLinear", "Program", "trace"]

Tensor = torch.Tensor


class NotPiecewiseLinear(Exception):
    """Carries the reason why the analytic path does not apply."""


# Linear in all their tensor arguments together, with no parameters: tangents go through the same call.
_LINEAR_FUNCTIONS = {
    operator.neg, operator.getitem, torch.neg, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze,
    torch.permute, torch.transpose, torch.movedim, torch.mean, torch.sum, torch.clone, F.avg_pool1d, F.avg_pool2d,
    F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.pixel_shuffle,
    F.pixel_unshuffle,
}  # fmt: skip
_LINEAR_METHODS = {
    "neg", "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "mean", "sum", "contiguous",
    "clone", "unflatten", "movedim",
}  # fmt: skip
_SUMS = {operator.add, operator.sub, torch.add, torch.sub, "add", "sub"}
_JOINS = {torch.cat, torch.concat, torch.stack}
_INPLACE = {  # read as their out-of-place forms, where nothing else looks at the memory
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}  # fmt: skip
_LINEAR_MODULES = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
# Those of the above whose output may share memory with their input.
_ALIASING = {
    operator.getitem, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.permute, torch.transpose,
    torch.movedim, F.pixel_shuffle, F.pixel_unshuffle, "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute",
    "transpose", "contiguous", "unflatten", "movedim",
}  # fmt: skip
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


# -- steps: each knows value, adjoint and tangent of one x-dependent node ----------------------------------------------


class _Plumbing:
    """A parameter-free linear operation on one or several tensors; ``aliasing``: its output may be a view of them."""

    def __init__(self, call: Callable[..., Tensor], inputs: list[fx.Node], aliasing: bool) -> None:
        self.call, self.inputs, self.aliasing = call, inputs, aliasing

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
        self.dtype_in, dtype = values[0].dtype, _layer_dtype(values[0])
        self.h = values[0].to(dtype)
        self.weight = self.parameter.detach().to(dtype)
        z = self.apply(self.h, None if self.bias is None else self.bias.detach().to(dtype))
        if self.activation is None:
            return z
        self.y = F.leaky_relu_(z, self.activation)
        return self.y

    def adjoint(self, d: Tensor) -> list[Tensor]:
        if self.activation is not None:
            d = leaky_mask_mul(d, self.y, self.activation)
        self.d = d
        return [self.adjoint_data(d).to(self.dtype_in)]

    def tangent(self, tangents: list[Tensor]) -> Tensor:
        self.t = tangents[0].to(self.h.dtype)
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
        return self.d.reshape(-1, self.d.shape[-1]).t() @ self.t.reshape(-1, self.t.shape[-1])


class _Convolution(_Layer):
    def __init__(self, weight, bias, inputs, activation, stride, padding, dilation, transposed, output_padding, groups):
        super().__init__(weight, bias, inputs, activation)
        self.geometry = (stride, padding, dilation, transposed, output_padding, groups)

    def apply(self, h: Tensor, bias: Tensor | None) -> Tensor:
        if h.dim() != self.weight.dim():
            raise NotPiecewiseLinear("a convolution is given an input without batch dimension")
        return convolution(h, self.weight, bias, *self.geometry)

    def adjoint_data(self, d: Tensor) -> Tensor:
        return self._backward(self.h, d, (True, False, False))[0]

    def weight_gradient(self) -> Tensor:
        return self._backward(self.t, self.d, (False, True, False))[1]

    def _backward(self, h: Tensor, d: Tensor, need: tuple[bool, bool, bool]):
        return convolution_backward(d, h, self.weight, *self.geometry, need)


def _layer_dtype(h: Tensor) -> torch.dtype:
    """The dtype in which a convolution or linear layer computes, given its input: autocast's where that is on."""
    device = h.device.type
    cast = autocasts(device) and h.dtype != torch.float64
    return torch.get_autocast_dtype(device) if cast else h.dtype


# -- recognising -------------------------------------------------------------------------------------------------------


class _Proxy(fx.Proxy):
    """Records ``h += y`` as such; fx's own reads it as ``h = h + y`` and does not see what other names of h become."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):  # weight.data = ..., which fx's own would swallow
            raise NotPiecewiseLinear(f"its forward assigns to {self.node.name}.{name}")
        super().__setattr__(name, value)


def _record_inplace(operation: Callable) -> Callable:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


for _operation in _INPLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _record_inplace(_operation))


class _Tracer(fx.Tracer):
    """Looks into user modules; torch's own layers and fastgan's fused ones are leaves."""

    def __init__(self, n_args: int) -> None:
        super().__init__()
        self.n_args, self.autocast = n_args, _autocast_state()

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return False
        return type(m).__module__.startswith("torch.nn") or hasattr(m, "piecewise_linear_form")

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """Leaves out the arguments that are not given, so that ``if label is None`` sees their defaults."""
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, arguments[: 2 + self.n_args]  # the module, x and n_args

    def create_node(self, *args, **kwargs) -> fx.Node:
        if not torch.is_grad_enabled() or _autocast_state() != self.autocast:
            raise NotPiecewiseLinear("its forward switches gradients or autocast on or off")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _RefuseTensorWork(TorchDispatchMode):
    """While fx traces, x is a proxy: what is computed on real tensors (weights, noise, buffers) is not in the graph."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise NotPiecewiseLinear(f"its forward computes {func} on tensors other than its input")


def _autocast_state() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _refuse_what_fx_cannot_see(critic: nn.Module) -> None:
    if isinstance(critic, torch.jit.ScriptModule):
        raise NotPiecewiseLinear("it is a TorchScript module")
    kinds = {parameter.kind for parameter in inspect.signature(critic.forward).parameters.values()}
    if kinds - {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}:
        raise NotPiecewiseLinear("its forward takes *args, **kwargs or keyword-only arguments")
    if type(critic).__call__ is not nn.Module.__call__:
        raise NotPiecewiseLinear("it overrides __call__")
    if nn.modules.module._has_any_global_hook():
        raise NotPiecewiseLinear("hooks on all modules are registered")
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
    before = [_Attributes(m) for m in critic.modules()]
    try:
        with torch.enable_grad(), _RefuseTensorWork():
            graph = _Tracer(n_args).trace(critic)
    except NotPiecewiseLinear:
        raise
    except Exception as error:  # control flow on data, len() of a proxy, ...: fx raises many kinds
        raise NotPiecewiseLinear(f"torch.fx cannot trace it ({(str(error).splitlines() or [error])[0]})") from error
    finally:
        changed = [attributes.module for attributes in before if attributes.restore()]
    if changed:
        raise NotPiecewiseLinear(f"{type(changed[0]).__name__}.forward writes to its module")
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    required = [node for node in placeholders if not node.args]
    if not len(required) <= 1 + n_args <= len(placeholders):
        raise NotPiecewiseLinear(f"its forward takes {len(placeholders)} arguments, {1 + n_args} are given")
    return graph


class _Attributes:
    """A module's attributes, and the contents of those that are lists, dicts or sets, as they were."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.values = module, dict(module.__dict__)
        self.contents = [(v, v.copy()) for v in self.values.values() if isinstance(v, (list, dict, set))]

    def restore(self) -> bool:
        """Put everything back; whether anything had changed."""
        changed = _differs(self.module.__dict__, self.values)
        if changed:
            self.module.__dict__.clear()
            self.module.__dict__.update(self.values)
        for container, content in self.contents:
            if _differs(container, content):
                changed = True
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)
        return changed


def _differs(now: Any, before: Any) -> bool:
    """Whether two lists, dicts or sets hold other objects (equal ones count as others)."""
    if len(now) != len(before):
        return True
    if isinstance(now, dict):
        return any(k not in now or now[k] is not v for k, v in before.items())
    if isinstance(now, set):
        return now != before
    return any(a is not b for a, b in zip(now, before, strict=True))


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
        self.arguments = [node for node in self.graph.nodes if node.op == "placeholder"]  # more than are given, maybe
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
            elif node.target in _INPLACE or (node.op == "call_method" and node.target.endswith("_")):
                raise NotPiecewiseLinear(f"{node.name} changes a tensor that is not computed from its input")
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
        if node.op == "call_method":
            if node.target in _SUMS:
                return self._sum(node, getattr(Tensor, node.target))
            if node.target in _LINEAR_METHODS:
                # A tangent may have other strides than the value it belongs to: view it as reshape does.
                return self._plumbing(node, getattr(Tensor, "reshape" if node.target == "view" else node.target))
        raise NotPiecewiseLinear(f"operation {node.target!r} is not known to be piecewise linear")

    def _plumbing(
        self, node: fx.Node, function: Callable[..., Tensor], in_tangent: Callable[[Any], Any] = lambda c: c
    ) -> _Plumbing:
        """``in_tangent``: what an argument that does not depend on x becomes where tangents go through."""
        inputs = [n for n in node.all_input_nodes if n in self._dependent]

        def call(*values: Tensor, tangent: bool = False) -> Tensor:
            given = dict(zip(inputs, values, strict=True))

            def lookup(argument: Any) -> Any:
                if isinstance(argument, fx.Node):
                    if argument in given:
                        return given[argument]
                    argument = self.constants[argument]
                return in_tangent(argument) if tangent else argument

            return function(*fx.node.map_aggregate(node.args, lookup), **fx.node.map_aggregate(node.kwargs, lookup))

        aliasing = node.op == "call_module" or node.target in _ALIASING
        return _Plumbing(call, inputs, aliasing)

    def _sum(self, node: fx.Node, function: Callable[..., Tensor]) -> _Plumbing:
        """x + constant is linear but for the constant, tensor or number, which the tangent does not see."""
        if len(node.args) + len(node.kwargs) != 2 or "alpha" in node.kwargs:
            raise NotPiecewiseLinear(f"{node.name} has more than two operands")
        return self._plumbing(node, function, lambda c: torch.zeros_like(c) if isinstance(c, Tensor) else 0)

    def _function_step(self, node: fx.Node, function: Callable[..., Any], inputs: list[fx.Node]) -> Any:
        if function in _INPLACE:
            if node.args[0] not in inputs:
                raise NotPiecewiseLinear(f"{node.name} changes a tensor that is not computed from its input")
            self._refuse_other_readers(node, node.args[0])
            function = _INPLACE[function]
        if function in _SUMS:
            return self._sum(node, function)
        if function in _JOINS:
            return self._plumbing(node, function, lambda c: torch.zeros_like(c) if isinstance(c, Tensor) else c)
        if function in _LINEAR_FUNCTIONS:
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

    def _activation(self, node: fx.Node, inputs: list[fx.Node], negative_slope: float, inplace: bool) -> _Activation:
        if inplace:
            self._refuse_other_readers(node, inputs[0])
        if not isinstance(negative_slope, (int, float)) or negative_slope < 0:
            raise NotPiecewiseLinear(f"{node.name} has negative_slope {negative_slope}")
        return _Activation(float(negative_slope), inputs)

    def _refuse_other_readers(self, node: fx.Node, changed: fx.Node) -> None:
        """``node`` writes to the memory of ``changed``, which may be a view of what its own inputs hold."""
        if len(changed.users) > 1:
            raise NotPiecewiseLinear(f"{node.name} changes a tensor in place that is used elsewhere")
        step = self.steps.get(changed)
        if isinstance(step, _Plumbing) and step.aliasing:
            for source in step.inputs:
                self._refuse_other_readers(node, source)

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
            if isinstance(value, (str, fx.Node)):
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
