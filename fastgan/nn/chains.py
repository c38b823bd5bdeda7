"""Finding the chains convolution (+ BatchNorm2d) (+ activation) that a module's own forward calls.

The forward is traced symbolically (torch.fx), on a copy that shares the parameters and drops the hooks, in train and in
eval mode and for each way of giving its optional arguments. A chain has to be there in every trace; a convolution with
which nothing can be fused is a chain by itself where a kernel may be faster. The trace only finds; nothing of it is
kept to compute with.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import operator
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from fastgan.nn.fused import (
    ACTIVATIONS,
    CallPattern,
    ChainNames,
    Path,
    geometry_of,
    has_own_call,
    is_swapped,
    simple_attributes,
)
from fastgan.ops._convolution import covered

__all__ = ["NO_FORWARD", "TracedRoot", "Untraceable", "obstacle", "trace_root"]

NO_FORWARD = "it has no forward"
MAX_OPTIONAL = 3  # all combinations of up to this many optional arguments are traced; of more, only none and all
_IN_PLACE_OPERATORS = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)
_VIEWS = {
    "view",
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
    "contiguous",
    "chunk",
    "getitem",
}
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_LEAVES = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, *ACTIVATIONS)


class Untraceable(Exception):
    """Why a module's forward cannot be traced, in one line."""


@dataclass
class TracedRoot:
    """What tracing one module's forward told of the convolutions that it calls."""

    chains: list[ChainNames]
    reasons: dict[Path, str]  # why a convolution is in no chain, or alone in its own
    calls: CallPattern
    attributes: tuple[tuple[Path, str, Any], ...]


def obstacle(module: nn.Module) -> str | None:
    """Why a module cannot be a member of a chain, wherever it is called; None where it can."""
    if is_swapped(module):
        return "it is already fused as part of a larger module"
    if nn.utils.parametrize.is_parametrized(module):
        return "it is parametrised (weight or spectral norm)"
    if has_own_call(module):
        return "it has hooks or a forward of its own"
    if isinstance(module, _CONVOLUTIONS):
        if type(module) not in _CONVOLUTIONS:
            return f"{type(module).__name__} is a subclass with code of its own"
        if module.padding_mode != "zeros":
            return f"padding_mode is {module.padding_mode!r}"
        if isinstance(module.padding, str):
            return f"padding is {module.padding!r}"
        return None
    if type(module) is nn.BatchNorm2d or type(module) in ACTIVATIONS:
        return None
    return f"{type(module).__name__} is no BatchNorm2d, ReLU, LeakyReLU or Tanh"


# -- tracing ---------------------------------------------------------------------------------------------------------
class _Proxy(fx.Proxy):
    """Records ``h += x`` as such; fx's own proxy reads it as ``h = h + x``."""


def _record_in_place(operation: Callable) -> Callable:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


for _operation in _IN_PLACE_OPERATORS:
    setattr(_Proxy, f"__{_operation.__name__}__", _record_in_place(_operation))


class _Tracer(fx.Tracer):
    """Traces a forward with the arguments of ``given``; the other optional ones are left out of the call."""

    trace_asserts = True

    def __init__(self, given: tuple[str, ...]) -> None:
        super().__init__()
        self.given = given

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        proxies = {name: self.create_proxy("placeholder", name, (), {}) for name in self.given}
        return partial(root_fn, **proxies), [self.root]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        # Activation checkpointing computes again outside of the forward, where the chain would not be armed.
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            raise Untraceable("it uses activation checkpointing")
        return super().call_module(m, forward, args, kwargs)


def _signature(module: nn.Module) -> tuple[list[str], dict[str, Any], list[str]]:
    """Names that may be given by position, defaults of the optional ones, keyword-only names."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        raise Untraceable("its forward takes positional-only arguments")
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    defaults = {p.name: p.default for p in named if p.default is not p.empty}
    return [p.name for p in named if p.kind is p.POSITIONAL_OR_KEYWORD], defaults, [p.name for p in named]


def _copy_for_tracing(module: nn.Module) -> nn.Module:
    """A copy whose forward may run on proxies: parameters shared, buffers and plain attributes its own, no hooks."""
    memo: dict[int, Any] = {}
    for m in module.modules():
        memo.update((id(p), p) for p in m._parameters.values() if p is not None)
        memo.update((id(b), b.detach().clone()) for b in m._buffers.values() if b is not None)
        memo.update((id(v), v) for v in vars(m).values() if isinstance(v, torch.Tensor))  # weights made by old norms
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks):
            memo[id(hooks)] = OrderedDict()
    return copy.deepcopy(module, memo)


@contextlib.contextmanager
def _no_traces_left() -> Iterator[None]:
    """Random generators as they were, warnings about proxies unheard."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _graph(module: nn.Module, given: tuple[str, ...], training: bool) -> tuple[fx.Graph, dict[Path, dict[str, Any]]]:
    """The graph of one way of calling, and the attributes that the forward itself leaves as they are."""
    try:
        twin = _copy_for_tracing(module)
        _set_mode(twin, training)
        with _no_traces_left():
            graph = _Tracer(given).trace(twin)
    except Exception as error:  # user code running on proxies may raise anything
        text = str(error).strip().split("\n")[0]
        raise Untraceable(text if isinstance(error, Untraceable) else f"{type(error).__name__}: {text}") from error
    return graph, {_path(name): simple_attributes(m) for name, m in twin.named_modules()}


def _set_mode(twin: nn.Module, training: bool) -> None:
    # Not twin.train(): a user's own train() may have side effects. The mode of frozen layers does not steer a forward.
    for m in twin.modules():
        m.training = training


def _ways_of_calling(defaults: dict[str, Any]) -> list[tuple[str, ...]]:
    names = sorted(defaults)
    if len(names) > MAX_OPTIONAL:
        return [(), tuple(names)]
    return [given for n in range(len(names) + 1) for given in itertools.combinations(names, n)]


def trace_root(module: nn.Module) -> TracedRoot:
    """Trace ``module.forward`` in every mode and way of calling, and keep the chains common to all traces.

    Raises Untraceable where no way of calling can be traced in both modes.
    """
    if type(module).forward is nn.Module.forward:
        raise Untraceable(NO_FORWARD)
    if "forward" in vars(module):
        raise Untraceable("its forward was replaced on the instance")
    positional, defaults, names = _signature(module)
    required = [name for name in names if name not in defaults]
    graphs, traced, failure = [], [], Untraceable("")
    attributes = {_path(name): simple_attributes(m) for name, m in module.named_modules()}
    for optional in _ways_of_calling(defaults):
        given = (*required, *optional)
        try:
            pair = [_graph(module, given, training) for training in (True, False)]
        except Untraceable as error:
            failure = failure if str(failure) else error
            continue
        traced.append(optional)
        for graph, after in pair:
            graphs.append(graph)
            attributes = {path: _unchanged(values, after.get(path, {})) for path, values in attributes.items()}
    if not graphs:
        raise failure
    chains, reasons = _common(module, graphs)
    calls = CallPattern(tuple(positional), defaults, tuple(traced))
    flat = tuple((path, name, value) for path, values in attributes.items() for name, value in values.items())
    leaves = {_path(name) for name, m in module.named_modules() if isinstance(m, _LEAVES)}
    return TracedRoot(chains, reasons, calls, tuple(entry for entry in flat if entry[0] not in leaves))


def _unchanged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    # A counter that the forward itself advances would stop fusion after one call.
    return {name: value for name, value in before.items() if name in after and after[name] == value}


def _path(name: str) -> Path:
    return tuple(name.split(".")) if name else ()


# -- reading a graph -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Found:
    """What one trace tells of a convolution."""

    chain: ChainNames | None
    reason: str | None = None  # why it is in no chain, or alone in its own


def _common(module: nn.Module, graphs: list[fx.Graph]) -> tuple[list[ChainNames], dict[Path, str]]:
    first, *others = (_chains_of_graph(module, graph) for graph in graphs)
    chains, reasons = [], {}
    for conv, found in first.items():
        everywhere = [found, *(other.get(conv, _Found(None)) for other in others)]
        if any(f.chain != found.chain for f in everywhere):
            reason = "what follows it differs between train and eval mode or with the optional arguments"
            called = all(f.chain is not None for f in everywhere)
            found = _alone(module.get_submodule(".".join(conv)), conv, reason) if called else _Found(None, reason)
        if found.chain is not None:
            chains.append(found.chain)
        if found.reason is not None:
            reasons[conv] = found.reason
    return chains, reasons


def _chains_of_graph(module: nn.Module, graph: fx.Graph) -> dict[Path, _Found]:
    """What the graph tells of each convolution that it calls."""
    called = {node: module.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    times = Counter(id(m) for m in called.values())
    convolutions = [node for node, m in called.items() if isinstance(m, _CONVOLUTIONS)]
    return {_path(node.target): _find(node, called, times) for node in convolutions}


def _find(node: fx.Node, called: dict[fx.Node, nn.Module], times: Counter) -> _Found:
    conv = called[node]
    reason = obstacle(conv)
    if reason is not None:
        return _Found(None, reason)
    if times[id(conv)] > 1:
        return _Found(None, f"it is called {times[id(conv)]} times in one forward")
    if len(node.args) != 1 or node.kwargs:
        return _Found(None, "it is called with output_size or keyword arguments")
    follower = _sole_module_user(node, called)
    reason = follower if isinstance(follower, str) else _refusal(follower, conv, called, times)
    if reason is not None:
        return _alone(conv, _path(node.target), reason)
    if type(called[follower]) is not nn.BatchNorm2d:
        return _Found(ChainNames(_path(node.target), None, _path(follower.target)))
    act = _sole_module_user(follower, called)
    fusable = not isinstance(act, str) and type(called[act]) in ACTIVATIONS and obstacle(called[act]) is None
    return _Found(ChainNames(_path(node.target), _path(follower.target), _path(act.target) if fusable else None))


def _alone(conv: nn.Module, path: Path, reason: str) -> _Found:
    """A convolution with which nothing can be fused."""
    gains = covered(conv.weight, *geometry_of(conv).as_aten_arguments())
    return _Found(ChainNames(path, None, None) if gains else None, reason)


def _refusal(follower: fx.Node, conv: nn.Module, called: dict[fx.Node, nn.Module], times: Counter) -> str | None:
    """Why the module called by ``follower``, which takes the convolution's output, cannot be fused with it."""
    module = called[follower]
    kind = type(module).__name__
    if type(module) is not nn.BatchNorm2d and type(module) not in ACTIVATIONS:
        return f"it is followed by {kind}"
    reason = obstacle(module)
    if reason is not None:
        return f"the {kind} after it: {reason}"
    if type(module) is nn.BatchNorm2d:
        if times[id(module)] > 1:
            return "the BatchNorm2d after it is called more than once"
        if module.num_features != conv.out_channels:
            return f"the BatchNorm2d after it has {module.num_features} features, not {conv.out_channels}"
    elif _needs_its_input(follower, called):
        return "the LeakyReLU after it: its output may be changed in place, which only the plain one allows"
    return None


def _sole_module_user(node: fx.Node, called: dict[fx.Node, nn.Module]) -> fx.Node | str:
    """The one module call that takes this node's value as its one argument, or what takes it instead."""
    users = list(node.users)
    if len(users) != 1:
        return f"its output is used {len(users)} times"
    user = users[0]
    if user.op == "output":
        return "its output leaves the module"
    if user not in called:
        return f"it is followed by {getattr(user.target, '__name__', user.target)}, which is no module"
    if user.args != (node,) or user.kwargs:
        return f"its output is one of several arguments of {user.target}"
    return user


def _needs_its_input(act: fx.Node, called: dict[fx.Node, nn.Module]) -> bool:
    """Whether an activation without a norm before it has its output changed in place by what follows.

    ReLU and Tanh forbid that in torch too. The fused LeakyReLU reads its output in backward, the plain one its input.
    """
    module = called[act]
    return type(module) is nn.LeakyReLU and not module.inplace and _is_changed_in_place(act, called)


def _is_changed_in_place(node: fx.Node, called: dict[fx.Node, nn.Module]) -> bool:
    for user in node.users:
        if user.op == "call_module":
            if getattr(called[user], "inplace", False):
                return True
            continue
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if user.target in _IN_PLACE_OPERATORS or name.endswith("_") or user.kwargs.get("inplace") or True in user.args:
            return True
        if name in _VIEWS and _is_changed_in_place(user, called):
            return True
    return False
