"""One training run by several processes: torchrun's, or any whose process group of torch.distributed is initialised.

Every process holds the whole model and takes its part of every joint batch; after backward the gradients are averaged,
and all do the same optimiser's step. ``batch_size`` is the joint batch's: two processes compute what one would with the
whole batch, to rounding, if losses are means over it.

Why not DistributedDataParallel
    Its hooks count on one forward, one backward and every parameter used, and a GAN keeps to none of the three: a
    critic runs twice before one backward, an update is of one network's parameters through another that is frozen, a
    penalty differentiates twice, outside of the wrapped forward. Each needs an option (find_unused_parameters,
    static_graph, broadcast_buffers), and each wrong choice is a hang or a silently wrong gradient. Here gradients are
    averaged when backward is done, over the parameters that the phase's optimiser moves, in one call: what happened
    before does not matter. The price: communication does not overlap with backward. On paper, an all-reduce of the
    14 MB of DCGAN's gradients takes a fraction of a millisecond over NVLink; on slow networks and with large models DDP
    hides most of what is a plain addition here.
Order
    Collective calls pair up by their order, so that every process must make the same ones: phases, repeats and stages
    depend on the step alone. What rank 0 does by itself (callbacks: samples, metrics, files) makes none; one made there
    is an error at once instead of a wait for ever.
BatchNorm
    over the joint batch (fastgan.nn.sync_bn), unless ``sync_bn=False``.
Random numbers
    Noise drawn by ``Architecture.latent`` and by ``gradient_penalty`` is the joint batch's (fastgan.ops._noise). All
    else (dropout, augmentation in a data set) comes from generators that are seeded differently in every process.
Losses
    that are no means over samples (those with statistics of a batch inside: relativistic averages, minibatch
    discrimination) see each process's part, as they do under DistributedDataParallel.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from fastgan.architectures.base import Phase
from fastgan.data.batch import Batch
from fastgan.nn.sync_bn import exchanging
from fastgan.ops import _noise
from fastgan.training import rng
from fastgan.training.ema import ExponentialMovingAverage
from fastgan.training.meter import Meter
from fastgan.training.options import choose_device
from fastgan.training.precision import Precision
from fastgan.training.run_folder import flatten
from fastgan.training.update import Updates, update
from fastgan.training.watch import Lost, Watch

__all__ = ["ManyProcesses", "OneProcess", "RankLost", "join"]

T = TypeVar("T")
# Of a collective call. What rank 0 does alone, while the others wait for it, has to be shorter; a process that is gone
# is noticed much sooner, by the watch. Who needs another one initialises the process group before the Trainer is made.
TIMEOUT = timedelta(minutes=30)


class RankLost(RuntimeError):
    """Another process of the run is gone; the message names its rank, the step and the last checkpoint."""


class _Broken(RuntimeError):
    """A collective call failed: another process is gone, or the network."""


class _Terminated(BaseException):
    """SIGTERM: torchrun stops the processes that are left when one is gone."""


def join(device: str | torch.device) -> OneProcess:
    """This process's place in the run; initialises the process group where torchrun started several and nobody has.

    Raises
    ------
    ValueError
        ``device`` is not one that every process can have for itself.
    """
    started = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not (dist.is_available() and (dist.is_initialized() or started)):
        return OneProcess(choose_device(device))
    if not dist.is_initialized():
        on_gpu = _own_device(device, int(os.environ["RANK"])).type == "cuda"
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
        atexit.register(_destroy)
    if dist.get_world_size() == 1:
        return OneProcess(choose_device(device))
    return ManyProcesses(dist.get_rank(), dist.get_world_size(), _own_device(device, dist.get_rank()))


def _destroy() -> None:
    if dist.is_initialized() and not ManyProcesses.broken:  # what is broken would be waited for
        dist.destroy_process_group()


def _own_device(device: str | torch.device, rank: int) -> torch.device:
    """The device of this process; of several GPUs the one with its number on this machine."""
    chosen = choose_device(device)
    if chosen.type != "cuda":
        return chosen
    if device != "auto" and torch.device(device).index is not None:
        raise ValueError(f"device is {str(device)!r}, one GPU for all processes: give 'cuda', and each takes its own")
    count = torch.cuda.device_count()
    local = int(os.environ.get("LOCAL_RANK", rank % count))
    if local >= count:
        raise ValueError(
            f"this machine has {count} GPUs for more processes: start {count} here, --nproc-per-node {count}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


class OneProcess:
    """A run by one process: what ``ManyProcesses`` does with others is nothing here."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def supervised(self, where: Callable[[], str]) -> AbstractContextManager[None]:
        """Around a run. ``where``: the present step and the last checkpoint, for the message about a lost process."""
        return nullcontext()

    def by_itself(self) -> AbstractContextManager[None]:
        """Around what this process does without the others."""
        return nullcontext()

    def from_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises in rank 0, in all."""
        return work()

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Means over all processes, by name."""
        return values

    def begin(self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Before a run: see that all were asked for the same, and give ``tensors`` the values they have in rank 0."""

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of a tensor (N, ...) of every process's samples, those of the joint batch."""
        return tensor

    def updates(self, meter: Meter, ema: ExponentialMovingAverage, precision: Precision) -> Updates:
        return Updates(meter, ema, precision)

    # -- random numbers and checkpoints --------------------------------------------------------------------------------
    def seed(self, seed: int) -> int:
        """The seed of this process's global generators in a run seeded ``seed``, which begins now."""
        return seed

    def state(self, architecture: nn.Module, meter: Meter) -> dict[str, Any]:
        """For the checkpoint: the generators' state, and what only several processes have."""
        return {"rng": rng.get_state(self.device)}

    def load(self, state: Mapping[str, Any], architecture: nn.Module, meter: Meter) -> None:
        """This process's own part of a checkpoint, after the common one; generators follow in ``load_rng``."""

    def load_rng(self, state: Mapping[str, Any]) -> None:
        rng.set_state(state["rng"], self.device)


class ManyProcesses(OneProcess):
    """One of ``world`` processes of a run."""

    broken = False  # whether the process group is of no use any more
    _runs = 0  # of this process: the same in all, so that it names a run

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        super().__init__(device)
        self.rank = rank
        self.world = world
        self._generator = torch.Generator(device)  # of the joint batch's noise
        self._seed = 0
        self._by_itself = False

    # -- collective calls ----------------------------------------------------------------------------------------------
    def _together(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self._by_itself:
            raise RuntimeError(
                "a call that all processes make together was made by rank 0 alone (a callback or metric called "
                "trainer.save, say, or trained): the others would never answer"
            )
        try:
            return call(*arguments, **options)
        except RuntimeError as error:
            raise _Broken(str(error)) from error

    def gather(self, value: T) -> list[T]:
        """``value`` of every process, in all."""
        values: list[Any] = [None] * self.world
        self._together(dist.all_gather_object, values, value)
        return values

    def stacked(self, vector: torch.Tensor) -> torch.Tensor:
        every = vector.new_empty(self.world, *vector.shape)
        self._together(dist.all_gather, list(every), vector.contiguous())
        return every

    def summed(self, vector: torch.Tensor) -> torch.Tensor:
        total = vector.clone()
        self._together(dist.all_reduce, total)
        return total

    @contextmanager
    def by_itself(self) -> Iterator[None]:
        self._by_itself = True
        try:
            yield
        finally:
            self._by_itself = False

    def from_first(self, work: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error
        self._together(dist.broadcast_object_list, outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        every = self.gather(values)
        given = {name: [v[name] for v in every if name in v] for name in values}
        return {name: sum(numbers) / len(numbers) for name, numbers in given.items()}

    def begin(self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
        asked = {**flatten(config), **{f"the shape of {name}": tuple(t.shape) for name, t in tensors.items()}}
        first = self.gather(asked)[0]
        for name in {**first, **asked}:
            if first.get(name) != asked.get(name):
                raise ValueError(
                    f"rank {self.rank} was started with {name} {asked.get(name)!r}, rank 0 with {first.get(name)!r}: "
                    "every process takes the same model, data and options"
                )
        for tensor in tensors.values():
            value = tensor.detach().contiguous()
            self._together(dist.broadcast, value, src=0)
            tensor.data.copy_(value)

    # -- training ------------------------------------------------------------------------------------------------------
    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.stacked(tensor.detach()).flatten(0, 1)

    def updates(self, meter: Meter, ema: ExponentialMovingAverage, precision: Precision) -> Updates:
        return _JointUpdates(meter, ema, precision, self)

    @contextmanager
    def joint(self, size: int) -> Iterator[None]:
        """Inside, all processes compute on their parts, ``size`` samples each, of one batch."""
        with _noise.shared(self.rank, self.world, size, self._generator), exchanging(self):
            yield

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all processes. One that is None here counts as zero where another
        process has it, and stays None where none has."""
        kinds: dict[tuple, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for group in kinds.values():
            flat = group[0].new_zeros(sum(p.numel() for p in group) + len(group))
            *pieces, given = flat.split([*(p.numel() for p in group), len(group)])
            pieces = [_shaped_as(p, piece) for p, piece in zip(group, pieces, strict=True)]
            present = [i for i, p in enumerate(group) if p.grad is not None]
            if present:
                torch._foreach_copy_([pieces[i] for i in present], [group[i].grad for i in present])
            given.copy_(torch.tensor([p.grad is not None for p in group]), non_blocking=True)
            self._together(dist.all_reduce, flat)
            flat[: -len(group)] /= self.world
            absent = set(range(len(group))).difference(present)
            elsewhere = {i for i in absent if given[i]} if absent else absent  # the one case that waits for the device
            for i in {*present, *elsewhere}:
                group[i].grad = pieces[i]

    # -- random numbers and checkpoints --------------------------------------------------------------------------------
    def seed(self, seed: int) -> int:
        self._seed = seed
        self._generator.manual_seed(seed)  # the place at which one process's own generator begins
        return rng.mix(seed, self.rank, self.world)

    def state(self, architecture: nn.Module, meter: Meter) -> dict[str, Any]:
        """ "rng" is what one process would go on with; "ranks" what differs: generators, meters, buffers."""
        buffers = {name: tensor.detach().cpu() for name, tensor in architecture.named_buffers()}
        sums = {name: _checksum(tensor) for name, tensor in buffers.items()}
        weights = {name: _checksum(p.detach().cpu()) for name, p in architecture.named_parameters()}
        every = self.gather((weights, sums))
        for rank, (others, _) in enumerate(every):
            if different := [name for name in weights if others[name] != every[0][0][name]]:
                raise RuntimeError(
                    f"weight {different[0]!r} of rank {rank} is not rank 0's any more: something changes weights by "
                    "numbers that differ between the processes (a phase's `after`, a callback)"
                )
        own = {
            "rng": rng.get_state(self.device),
            "meter": meter.state_dict(),
            "buffers": {name: tensor for name, tensor in buffers.items() if sums[name] != every[0][1][name]},
        }
        joint = {**own["rng"], self._kind: self._generator.get_state()}
        return {"rng": joint, "ranks": self.gather(own)}

    @property
    def _kind(self) -> str:
        """Which of ``rng.get_state`` the joint noise stands for."""
        return "cuda" if self.device.type == "cuda" else "torch"

    def _own(self, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What this process saved; None where others did, more or fewer."""
        ranks = state.get("ranks", [])
        return ranks[self.rank] if len(ranks) == self.world else None

    def load(self, state: Mapping[str, Any], architecture: nn.Module, meter: Meter) -> None:
        own = self._own(state)
        if own is not None:
            meter.load_state_dict(own["meter"], self.device)
            buffers = dict(architecture.named_buffers())
            for name, value in own["buffers"].items():
                buffers[name].copy_(value)

    def load_rng(self, state: Mapping[str, Any]) -> None:
        if self._kind in state["rng"]:
            self._generator.set_state(state["rng"][self._kind])
        own = self._own(state)
        if own is not None:
            rng.set_state(own["rng"], self.device)
        else:
            rng.seed_all(rng.mix(self._seed, state["step"], self.rank, self.world), self.device)

    # -- the others ----------------------------------------------------------------------------------------------------
    @contextmanager
    def supervised(self, where: Callable[[], str]) -> Iterator[None]:
        ManyProcesses._runs += 1
        store = dist.PrefixStore(f"fastgan/{self._runs}", dist.distributed_c10d._get_default_store())
        watch = Watch(store, self.rank, self.world, lambda lost: self._say(lost, where()))
        self.gather(None)  # every process is watched
        watch.start()
        with _terminable() as ignore_signal:
            try:
                yield
                self.gather(None)  # nobody leaves while another may still fail
                watch.leave()
            except BaseException as error:
                ignore_signal()
                ManyProcesses.broken = True
                lost = watch.find() if isinstance(error, (_Broken, _Terminated, dist.DistError)) else watch.known
                if lost is not None:
                    watch.leave()
                    raise RankLost(self._say(lost, where())) from error
                if isinstance(error, _Terminated):
                    watch.leave()
                    raise SystemExit(128 + signal.SIGTERM) from None
                watch.report(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
                raise

    def _say(self, lost: Lost, where: str) -> str:
        return f"{lost} ({where}); rank {self.rank} of {self.world} ends too"


class _JointUpdates(Updates):
    """Updates by all processes on their parts of one batch."""

    def __init__(
        self, meter: Meter, ema: ExponentialMovingAverage, precision: Precision, processes: ManyProcesses
    ) -> None:
        super().__init__(meter, ema, precision)
        self.processes = processes

    def update(self, phase: Phase, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> None:
        with self.processes.joint(len(batch)):
            average = self.processes.average_gradients
            names = update(phase, optimizer, batch, step, self.meter, self.precision, average)
        self.meter.count(names)


@contextmanager
def _terminable() -> Iterator[Callable[[], None]]:
    """Inside, SIGTERM raises _Terminated, once, until the yielded function is called. A handler of the user's stays."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield lambda: None
        return
    process, armed = os.getpid(), True

    def disarm() -> None:
        nonlocal armed
        armed = False

    def stop(*_: Any) -> None:
        if os.getpid() != process:  # a loader's worker, forked from this one
            os._exit(128 + signal.SIGTERM)
        if armed:
            disarm()
            raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield disarm
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _shaped_as(parameter: nn.Parameter, piece: torch.Tensor) -> torch.Tensor:
    """A flat tensor as the parameter lies in memory, contiguous or channels last."""
    if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return piece.as_strided(parameter.shape, parameter.stride(), piece.storage_offset())
    return piece.view(parameter.shape)


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
