"""The modules of a fused chain at run time: who computes, who passes through, and when.

`fuse` swaps the classes of a chain's modules for the ones below and the class of the chain's root (the module whose
`forward` was traced) for a subclass that *arms* the chain while that `forward` runs:

    root.forward begins     looks the chain's modules up by name, checks that they are still the ones that were fused
                            and arms the convolution
    armed convolution       computes activation(batch_norm(convolution)) by one op, updates the running statistics and
                            leaves its output y with the BatchNorm and the activation as expected input; in a chain of
                            its own it computes the convolution alone, and what follows takes y as from a plain one
    BatchNorm, activation   return an expected tensor as it is and treat every other one as the plain module does
    root.forward ends       disarms; an output that was not handed on is an error, never a wrong number

Outside their root's forward all of them are the plain modules, so a submodule called alone, a slice of a Sequential or
a parent that reads intermediate results get what they got before. Where no kernel covers the call, the convolution
does its plain work and the others follow.

Between calls a root holds only names (of its chains, and of those that a kind of call runs plain), and the modules
nothing: deepcopy, pickle, replication and replaced children need no care. State during a call is kept per thread.
"""

from __future__ import annotations

import copyreg
import functools
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastgan.nn import sync_bn
from fastgan.ops import update_running_stats_
from fastgan.ops._conv_bn_act import Geometry, conv_bn_act, takes_kernel
from fastgan.ops._dispatch import autocasts, current, transformed

__all__ = [
    "ACTIVATIONS",
    "CallPattern",
    "ChainNames",
    "FusedBatchNorm2d",
    "FusedConv2d",
    "FusedConvTranspose2d",
    "FusedLeakyReLU",
    "FusedReLU",
    "FusedTanh",
    "Plan",
    "has_own_call",
    "chain_modules",
    "geometry_of",
    "is_root",
    "is_swapped",
    "make_root",
    "restore_module",
    "restore_root",
    "simple_attributes",
    "swap_module",
]

Path = tuple[str, ...]
ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh"}


# -- what a root remembers -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ChainNames:
    """Names of a chain's modules below its root; bn or act is None where the chain has none."""

    conv: Path
    bn: Path | None
    act: Path | None

    def __len__(self) -> int:
        return 1 + (self.bn is not None) + (self.act is not None)

    def __str__(self) -> str:
        return " + ".join(".".join(path) for path in (self.conv, self.bn, self.act) if path is not None)


@dataclass(frozen=True)
class CallPattern:
    """The ways of calling a forward that were traced: which optional arguments were given."""

    names: tuple[str, ...]  # in the order in which they may be given by position
    defaults: dict[str, Any]
    traced: tuple[tuple[str, ...], ...]  # sets of given optional arguments, each sorted

    def covers(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether a call follows one of the traced ways, where a proxy stood for a tensor or a number."""
        if len(args) > len(self.names):
            return False
        given = []
        for name, value in [*zip(self.names, args), *kwargs.items()]:  # noqa: B905 - fewer arguments than names
            if name in self.defaults and value is self.defaults[name]:
                continue
            if not isinstance(value, (torch.Tensor, int, float)):
                return False
            if name in self.defaults:
                given.append(name)
        return tuple(sorted(given)) in self.traced


@dataclass
class Plan:
    """What the root of some chains keeps: their names, and what has to hold for them to be used in a call."""

    chains: tuple[ChainNames, ...]
    calls: CallPattern
    attributes: tuple[tuple[Path, str, Any], ...]  # (module, attribute, its value when traced): switches of a forward
    # By kind of call, the chains that no kernel took: the next call of that kind runs them as plain modules, which is
    # right whatever has changed since, and spares a small network the question, some 50 us a chain.
    declined: dict[Hashable, frozenset[ChainNames]] = field(default_factory=dict)

    def decline(self, kind: Hashable | None, chains: Iterable[ChainNames]) -> None:
        known = self.declined.get(kind, frozenset())
        if kind is not None and (known or len(self.declined) < _MOST_KINDS):
            self.declined[kind] = known.union(chains)


_MOST_KINDS = 64  # of calls remembered: a network sees few sizes


# Values that steer a forward by if and for. Floats (a blending factor) change every step and rarely steer.
_SWITCHES = (bool, int, str, type(None))


def simple_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that may switch its forward's path, by name."""
    own = vars(module).items()
    return {k: v for k, v in own if type(v) in _SWITCHES and k != "training" and not k.startswith("_")}


def geometry_of(conv: nn.Conv2d | nn.ConvTranspose2d) -> Geometry:
    """A module's convolution as the ops have it."""
    output_padding = conv.output_padding if conv.transposed else (0, 0)
    integers = (list(conv.stride), list(conv.padding), list(output_padding), list(conv.dilation))
    return Geometry(conv.transposed, *integers, conv.groups)


# -- the modules of a chain ------------------------------------------------------------------------------------------
def _thread() -> int:
    return threading.get_ident()


# torch.compile takes the result as a constant; torch.compiler.assume_constant_result says the same, but imports dynamo
_thread._dynamo_marked_constant = True


class _ArmedChain:
    """A chain during one call of its root's forward."""

    def __init__(self, names: ChainNames, conv: nn.Module, bn: nn.Module | None, act: nn.Module | None) -> None:
        self.names = names
        self.conv = conv
        self.bn = bn
        self.act = act
        self.used = self.declined = False
        self.output = None  # what the others have yet to pass on
        self.before = None

    def arm(self) -> None:
        self.before = self.conv._armed.get(_thread())
        self.conv._armed[_thread()] = self

    def hand_on(self, y: torch.Tensor) -> None:
        self.used = True
        for module in (self.bn, self.act):
            if module is not None:
                self.output = y
                module._expected.setdefault(_thread(), []).append(y)

    def disarm(self) -> bool:
        """Back to the state before `arm`; False where the output did not pass through the whole chain."""
        complete = True
        for module in (self.bn, self.act):
            if module is not None and self.output is not None and _taken(module, self.output):
                complete = False
        if self.before is None:
            self.conv._armed.pop(_thread(), None)
        else:
            self.conv._armed[_thread()] = self.before
        return complete


def _taken(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether ``module`` expects exactly this tensor; it then expects it no longer."""
    expected = module._expected.get(_thread())
    if expected is None:
        return False
    for i, y in enumerate(expected):
        if y is x:
            del expected[i]
            if not expected:
                del module._expected[_thread()]
            return True
    return False


class _Member:
    """What every module of a chain is outside of its root's forward."""

    def piecewise_linear_form(self) -> tuple[type[nn.Module], None]:
        """For gradient_penalty, which looks at a critic layer by layer: each does its own plain work alone."""
        return _PLAIN[type(self)], None


class _Convolution(_Member):
    """Forward of both convolutions."""

    def forward(self, input: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        chain = self._armed.get(_thread()) if self._armed else None
        if chain is None or chain.used or args or kwargs or input.dim() != 4:
            return super().forward(input, *args, **kwargs)
        y = self._chain_output(input, chain.bn, chain.act)
        if y is None:
            chain.declined = True
            return super().forward(input)
        chain.hand_on(y)
        return y

    def _chain_output(self, x: torch.Tensor, bn: nn.BatchNorm2d | None, act: nn.Module | None) -> torch.Tensor | None:
        """The chain's output, running statistics updated; None where the plain modules have to do it."""
        activation = "none" if act is None else act._activation
        slope = getattr(act, "negative_slope", 0.0)
        if bn is not None and (exchange := sync_bn.exchange_for(bn)) is not None:
            z = self._chain_output(x, None, None)
            return sync_bn.norm_act(bn, super().forward(x) if z is None else z, exchange, activation, slope)
        conv = geometry_of(self)
        tensors = (x, self.weight, self.bias, None, None, None, None)
        batch_statistics, eps = False, 0.0
        if bn is not None:
            batch_statistics, eps = bn.training or (bn.running_mean is None and bn.running_var is None), bn.eps
            running = (None, None) if batch_statistics else (bn.running_mean, bn.running_var)
            tensors = (x, self.weight, self.bias, bn.weight, bn.bias, *running)
        alone = x.shape[0] == 1 and conv.out_elements(x, self.weight) == conv.out_channels(self.weight)
        if batch_statistics and alone:
            return None  # the plain BatchNorm refuses a single value, in its own words
        if not takes_kernel(conv, *tensors, bn is not None, activation, slope):
            return None
        y, _, mean, invstd = conv_bn_act(conv, *tensors, bn is not None, batch_statistics, eps, activation, slope)
        if bn is not None and bn.training:
            bn._update_running_stats(mean, invstd, count=y.numel() // y.shape[1])
        return y


class FusedConv2d(_Convolution, nn.Conv2d):
    """A Conv2d that computes its whole chain while the chain's root runs."""


class FusedConvTranspose2d(_Convolution, nn.ConvTranspose2d):
    """A ConvTranspose2d that computes its whole chain while the chain's root runs."""


class _PassThrough(_Member):
    """Forward of what follows a fused convolution."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self._expected and _taken(self, input):
            return input
        return super().forward(input)


class FusedBatchNorm2d(_PassThrough, sync_bn.SynchronisedNorm, nn.BatchNorm2d):
    """A BatchNorm2d whose work the convolution before it does."""

    def _update_running_stats(self, mean: torch.Tensor, invstd: torch.Tensor, count: int) -> None:
        if not self.track_running_stats:
            return
        factor = sync_bn.weight_of_batch(self)
        if self.running_mean is not None and self.running_var is not None:
            # .data: as torch's batch norm leaves the version alone, which has saved these for the backward pass of a
            # call that ran plain
            update_running_stats_(self.running_mean.data, self.running_var.data, mean, invstd, count, factor, self.eps)


class FusedReLU(_PassThrough, nn.ReLU):
    """A ReLU that the convolution before it has applied."""

    _activation = "relu"


class FusedLeakyReLU(_PassThrough, nn.LeakyReLU):
    """A LeakyReLU that the convolution before it has applied."""

    _activation = "leaky_relu"


class FusedTanh(_PassThrough, nn.Tanh):
    """A Tanh that the convolution before it has applied."""

    _activation = "tanh"


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FusedConv2d,
    nn.ConvTranspose2d: FusedConvTranspose2d,
    nn.BatchNorm2d: FusedBatchNorm2d,
    nn.ReLU: FusedReLU,
    nn.LeakyReLU: FusedLeakyReLU,
    nn.Tanh: FusedTanh,
}
_PLAIN = {fused: plain for plain, fused in _FUSED.items()}


def swap_module(module: nn.Module) -> None:
    """Make a plain module of a chain its fused counterpart, in place."""
    if type(module) in _PLAIN:
        return
    module.__class__ = _FUSED[type(module)]
    module.__module__ = _PLAIN[type(module)].__module__  # torch.fx takes layers of torch.nn as they are
    if isinstance(module, _Convolution):
        module._armed = {}
    else:
        module._expected = {}


def is_swapped(module: nn.Module) -> bool:
    return type(module) in _PLAIN


def restore_module(module: nn.Module) -> None:
    """Undo `swap_module`; other modules stay as they are."""
    plain = _PLAIN.get(type(module))
    if plain is not None:
        module.__class__ = plain
        for name in ("__module__", "_armed", "_expected", "_synchronised"):
            vars(module).pop(name, None)


def has_own_call(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its class's forward: hooks, or a forward set on the instance."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


# -- the root --------------------------------------------------------------------------------------------------------
def _lookup(root: nn.Module, path: Path | None) -> nn.Module | None:
    module = root
    for name in path or ():
        module = module._modules.get(name)
        if module is None:
            return None
    return module


def _kind_of_call(args: tuple, kwargs: dict[str, Any]) -> Hashable | None:
    """What decides between kernels and plain modules under ``auto``; None for a call to be asked about every time."""
    if current() != "auto" or torch.compiler.is_compiling() or torch.jit.is_tracing() or sync_bn.is_exchanging():
        return None
    kind: list[Hashable] = [torch.get_num_threads()]
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            kind += value.shape, value.dtype, value.device, autocasts(value.device.type)
        elif isinstance(value, (int, float, str, type(None))):
            kind.append(type(value))
        else:
            return None
    return tuple(kind)


def _armed_chains(root: nn.Module, kind: Hashable | None, args: tuple, kwargs: dict[str, Any]) -> list[_ArmedChain]:
    """The chains of ``root`` that this call may use; those whose modules were replaced are given up."""
    if _calls_for_plain_layers():
        return []
    plan = root._fuse_plan
    declined = plan.declined.get(kind, ())
    chains = [names for names in plan.chains if names not in declined]
    if any(len(names) > 1 for names in chains) and not _takes_a_traced_path(root, args, kwargs):
        chains = [names for names in chains if len(names) == 1]  # a convolution alone is right on every path
    armed, lost = [], []
    for names in chains:
        conv, bn, act = _lookup(root, names.conv), _lookup(root, names.bn), _lookup(root, names.act)
        bn = None if names.bn is None else bn
        act = None if names.act is None else act
        if not _is_intact(names, conv, bn, act):
            lost.append(names)
        elif not any(has_own_call(m) for m in (conv, bn, act) if m is not None):
            armed.append(_ArmedChain(names, conv, bn, act))
    if lost:
        _give_up(root, lost)
    return armed


def _takes_a_traced_path(root: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether this call is one of those that tracing saw, so that whole chains will be gone through."""
    plan = root._fuse_plan
    if not plan.calls.covers(args, kwargs):
        return False
    for path, name, value in plan.attributes:
        if getattr(_lookup(root, path), name, None) != value:
            _warn(
                f"{type(root).__name__} runs unfused while {'.'.join((*path, name))!r} differs from what it was when "
                "fused, since its forward may take another path; call fastgan.fuse again to use the new value"
            )
            return False
    return True


def _calls_for_plain_layers() -> bool:
    """Whether no kernel is wanted, or something outside looks at every layer or transforms them as no op can follow."""
    return current() == "reference" or nn.modules.module._has_any_global_hook() or transformed()


def _is_intact(names: ChainNames, conv: nn.Module | None, bn: nn.Module | None, act: nn.Module | None) -> bool:
    return (
        type(conv) in (FusedConv2d, FusedConvTranspose2d)
        and (names.bn is None or type(bn) is FusedBatchNorm2d)
        and (names.act is None or type(act) in (FusedReLU, FusedLeakyReLU, FusedTanh))
    )


def _warn(text: str) -> None:
    if not torch.compiler.is_compiling():
        warnings.warn(text, stacklevel=4)


def _give_up(root: nn.Module, lost: list[ChainNames]) -> None:
    """Forget chains whose modules were replaced or changed class."""
    if torch.compiler.is_compiling():
        return  # the next eager call does it
    plan = root._fuse_plan
    plan.chains = tuple(names for names in plan.chains if names not in lost)
    kept = {id(_lookup(root, path)) for names in plan.chains for path in (names.conv, names.bn, names.act) if path}
    for names in lost:
        for path in (names.conv, names.bn, names.act):
            module = _lookup(root, path) if path else None
            if module is not None and id(module) not in kept:
                restore_module(module)
        _warn(f"a module of {names} in {type(root).__name__} was replaced: this chain runs unfused from now on")


def _armed_forward(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def run(self, *args, **kwargs):
        kind = _kind_of_call(args, kwargs)
        chains = _armed_chains(self, kind, args, kwargs)
        if not chains:
            return forward(self, *args, **kwargs)
        complete = False
        for chain in chains:
            chain.arm()
        try:
            output = forward(self, *args, **kwargs)
            complete = True
        finally:
            astray = [str(chain.names) for chain in chains if not chain.disarm()]
            if complete and astray:
                raise RuntimeError(
                    f"{type(self).__name__} took another path than when it was fused: the output of "
                    f"{', '.join(astray)} skipped a part of its chain. Call fastgan.unfuse on the model."
                )
        declined = [chain.names for chain in chains if chain.declined and not chain.used]
        if declined:
            self._fuse_plan.decline(kind, declined)
        return output

    return run


def _new_root(plain: type[nn.Module]) -> nn.Module:
    root = _root_class(plain)
    return root.__new__(root)


@functools.cache
def _root_class(plain: type[nn.Module]) -> type[nn.Module]:
    """A subclass of ``plain`` of the same name that arms its chains while its forward runs."""

    def reduce(self, protocol):
        # The class was made here and has no name to be found by: rebuild it from the plain one, which has.
        function, args, *rest = plain.__reduce_ex__(self, protocol)
        if function is copyreg.__newobj__:
            function, args = _new_root, (plain,)
        return function, args, *rest

    body = {
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
        "__reduce_ex__": reduce,
        "_plain_class": plain,
        "_fuse_plan": Plan((), CallPattern((), {}, ()), ()),  # of instances made by other means: a Sequential's slice
        "forward": _armed_forward(plain.forward),
    }
    return type(plain.__name__, (plain,), body)


def make_root(module: nn.Module, plan: Plan) -> None:
    module.__class__ = _root_class(type(module))
    module._fuse_plan = plan


def is_root(module: nn.Module) -> bool:
    return "_plain_class" in vars(type(module))


def chain_modules(root: nn.Module) -> list[nn.Module]:
    """The modules of a root's chains that are still there."""
    paths = [path for names in root._fuse_plan.chains for path in (names.conv, names.bn, names.act) if path is not None]
    return [module for module in (_lookup(root, path) for path in paths) if module is not None]


def restore_root(module: nn.Module) -> None:
    """Undo `make_root`; other modules stay as they are."""
    if is_root(module):
        module.__class__ = type(module)._plain_class
        vars(module).pop("_fuse_plan", None)
