"""fuse / unfuse: run the convolution (+ BatchNorm) (+ activation) chains of anybody's model through the fused ops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar, overload

from torch import nn

from fastgan.nn.chains import NO_FORWARD, TracedRoot, Untraceable, obstacle, trace_root
from fastgan.nn.fused import (
    ChainNames,
    Path,
    Plan,
    chain_modules,
    is_root,
    make_root,
    restore_module,
    restore_root,
    swap_module,
)

__all__ = ["FuseReport", "FusedChain", "fuse", "unfuse"]

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class FusedChain:
    """Names of a fused chain's modules; bn or act is None where the chain has none."""

    conv: str
    bn: str | None
    act: str | None
    root: str  # the module whose forward runs the chain fused; "" is the model itself

    def __str__(self) -> str:
        return " + ".join(name for name in (self.conv, self.bn, self.act) if name is not None)


@dataclass
class FuseReport:
    """What `fuse` did: the fused chains, and for every other Conv2d and ConvTranspose2d the reason why not.

    Those of ``alone`` are fused with nothing, but run by a CPU kernel in the calls that it makes faster; those of
    ``left`` are as they were.
    """

    fused: list[FusedChain] = field(default_factory=list)
    alone: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"fused: {len(self.fused)} of {len(self.fused) + len(self.alone) + len(self.left)} convolutions"]
        lines += [f"  {chain}" for chain in self.fused]
        for title, reasons in (("alone, by a kernel where one is faster:", self.alone), ("not fused:", self.left)):
            lines += [title] if reasons else []
            lines += [f"  {name or '(the model)'}: {reason}" for name, reason in reasons.items()]
        return "\n".join(lines)


@overload
def fuse(model: Module, report: Literal[False] = False) -> Module: ...
@overload
def fuse(model: Module, report: Literal[True]) -> tuple[Module, FuseReport]: ...


def fuse(model, report=False):
    """Make a model's Conv2d / ConvTranspose2d (+ BatchNorm2d) (+ ReLU | LeakyReLU | Tanh) chains run as one op each.

    A convolution with which nothing can be fused is a chain by itself where there is a kernel that may be faster.

    Works in place and returns ``model``, or ``(model, FuseReport)`` with ``report=True``. Parameters, buffers,
    state_dict keys and module names stay the same objects and names; outputs, gradients and running statistics stay
    what they were, up to rounding. deepcopy, pickle, dtype and device moves, data parallelism and
    torch.compile(fullgraph=True) work as before; `unfuse` restores the model exactly. Fusing again starts afresh.

    Chains are found by symbolic tracing, module by module; the model keeps its own forward. A chain belongs to the
    innermost module whose forward calls all of it, and is fused only while that forward runs: a layer called alone
    gives its own output. Left as they are, with the reason in the report: convolutions called more than once, with
    hooks or parametrisations, with code of their own (subclasses), with padding modes other than zeros.

    A chain runs plain again, with the same numbers, for as long as one of its modules has a hook, and in calls that
    tracing did not see: optional arguments whose use cannot be traced, arguments that are neither tensors nor numbers,
    a switch of the model (an attribute: bool, int, str or None) that has changed since; the last with a warning.
    A replaced module unfuses its chain for good, with a warning.

    Limits: a forward that takes another path because of a global, a random number or a float attribute is noticed where
    a chain was left half-way (RuntimeError), not where it reads a result inside a chain that it did not read when
    traced. Recomputed by torch.utils.checkpoint(use_reentrant=False), a module's running statistics count a batch once
    where torch counts it twice. Classes change to subclasses (FusedConv2d, ...), so tests by ``type(m) is nn.Conv2d``
    belong before `fuse`.

    Raises:
        TypeError: ``model`` is not a Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse: model is a {type(model).__name__}; it takes a torch.nn.Module")
    _undo_roots(model)
    roots, failures = _trace_all(model)
    chosen = _choose(model, roots)
    made = _swap(model, roots, chosen)
    return (model, _report(model, roots, failures, made)) if report else model


def unfuse(model: Module) -> Module:
    """Undo `fuse` in place, for every module of ``model``, and return it.

    Raises:
        TypeError: ``model`` is not a Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"unfuse: model is a {type(model).__name__}; it takes a torch.nn.Module")
    for module in model.modules():
        restore_module(module)
        restore_root(module)
    return model


def _undo_roots(model: nn.Module) -> None:
    """Unfuse what the roots inside ``model`` own; chains that belong to a root outside of it stay."""
    for root in [m for m in model.modules() if is_root(m)]:
        for module in chain_modules(root):
            restore_module(module)
        restore_root(root)


def _trace_all(model: nn.Module) -> tuple[dict[str, TracedRoot], dict[str, str]]:
    """Every module with a convolution below it, traced; and for those that cannot be traced why."""
    roots, failures = {}, {}
    for name, module in model.named_modules():
        if not any(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) for m in module.modules() if m is not module):
            continue
        try:
            roots[name] = trace_root(module)
        except Untraceable as error:
            failures[name] = str(error)
    return roots, failures


def _choose(model: nn.Module, roots: dict[str, TracedRoot]) -> dict[str, list[ChainNames]]:
    """For each convolution its longest chain, at the innermost root that has it."""
    best: dict[nn.Module, tuple[tuple[int, int], str, ChainNames]] = {}
    for name, root in roots.items():
        depth = name.count(".") + bool(name)
        for chain in root.chains:
            conv = model.get_submodule(_join(name, chain.conv))
            rank = (len(chain), depth)
            if conv not in best or rank > best[conv][0]:
                best[conv] = (rank, name, chain)
    chosen: dict[str, list[ChainNames]] = {}
    for _, name, chain in best.values():
        chosen.setdefault(name, []).append(chain)
    return chosen


def _swap(model: nn.Module, roots: dict[str, TracedRoot], chosen: dict[str, list[ChainNames]]) -> list[FusedChain]:
    made = []
    for name, chains in chosen.items():
        module = model.get_submodule(name)
        make_root(module, Plan(tuple(chains), roots[name].calls, roots[name].attributes))
        for member in chain_modules(module):
            swap_module(member)
        for chain in chains:
            conv, bn, act = (path and _join(name, path) for path in (chain.conv, chain.bn, chain.act))
            made.append(FusedChain(conv, bn, act, name))
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return sorted(made, key=lambda chain: order.get(chain.conv, len(order)))


def _report(
    model: nn.Module, roots: dict[str, TracedRoot], failures: dict[str, str], made: list[FusedChain]
) -> FuseReport:
    """What was made; reasons are told by the innermost module that calls the convolution."""
    told: dict[nn.Module, str] = {}
    for root_name, root in roots.items():  # outer modules come before those inside them
        told.update((model.get_submodule(_join(root_name, path)), reason) for path, reason in root.reasons.items())
    chain_of = {model.get_submodule(chain.conv): chain for chain in made}
    report = FuseReport([chain for chain in made if chain.bn or chain.act])
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        if module not in chain_of:
            report.left[name] = obstacle(module) or told.get(module) or _why_not_called(name, failures)
        elif not (chain_of[module].bn or chain_of[module].act):
            report.alone[name] = told[module]
    return report


def _why_not_called(name: str, failures: dict[str, str]) -> str:
    """Why no trace came across the convolution ``name``."""
    if not name:
        return "it is the model itself"
    around = [outer for outer in failures if not outer or name.startswith(outer + ".")]
    for outer in reversed(around):  # the innermost first
        if failures[outer] != NO_FORWARD:
            return f"{outer or 'the model'} cannot be traced ({failures[outer]})"
    return "no forward calls it"


def _join(root: str, path: Path) -> str:
    return ".".join((root, *path) if root else path)
