"""Trains by several processes that talk over gloo on this machine: the program behind test_distributed.py.

Started once as `python processes.py ROOT`. Every scenario is a world of processes forked from this one, which has
imported torch and computed nothing; what rank R of a scenario found, raised and printed lies in ROOT/SCENARIO/R.*.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import crash
import stubs

import fastgan
from fastgan.ops import _library
from fastgan.training import distributed, watch
from fastgan.training.batches import to_device
from fastgan.training.callbacks import Callback

LONG = {"steps": 6, "log_every": 2, "sample_every": 5, "metric_every": 4, "checkpoint_every": 3}


def start(root: Path, world: int, work: Callable[[Path], object]) -> list[int]:
    """``work`` in ``world`` processes with the environment that torchrun gives; their process ids."""
    root.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [crash.forked(functools.partial(run, root, world, rank, port, work)) for rank in range(world)]


def run(root: Path, world: int, rank: int, port: int, work: Callable[[Path], object]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(root / f"{rank}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        found = work(root)
    except BaseException as error:
        traceback.print_exc()
        (root / f"{rank}.error").write_text(f"{type(error).__name__}: {error}")
        os._exit(3)
    if found is not None:
        torch.save(found, root / f"{rank}.pt")
    distributed._destroy()
    os._exit(0)


def wait(*pids: int) -> None:
    for pid in pids:
        os.waitpid(pid, 0)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


# -- scenarios ---------------------------------------------------------------------------------------------------------


def train(name: str, penalty: str, _: Path) -> dict[str, torch.Tensor]:
    """Three steps in float64; weights, buffers, averages and the gradients of the last updates."""
    from fastgan.architectures import wgan_gp

    wgan_gp.gradient_penalty = functools.partial(fastgan.ops.gradient_penalty, method=penalty)
    torch.manual_seed(5)
    architecture = fastgan.create(name, **stubs.SMALL[name]).double()
    if name == "wgan":
        architecture.critic_updates = lambda step: 3 - step
    if rank():
        for tensor in architecture.state_dict().values():  # every process begins with rank 0's
            tensor.zero_()
    data = stubs.Images(20, architecture.config.image_size, architecture.config.channels)
    trainer = fastgan.Trainer(architecture, data, steps=3, batch_size=6, seed=3, log_every=1, progress=False)
    trainer.batches.place = lambda values: to_device(values, trainer.device).to(torch.float64)
    trainer.callbacks.append(records := Records())
    trainer.fit()
    gradients = {f"gradient of {n}": p.grad for n, p in architecture.named_parameters()}
    averages = {f"average of {n}": t for n, t in trainer.ema.tensors.items()}
    losses = {f"record {i} of {n}": torch.tensor(v) for i, r in enumerate(records.all) for n, v in r.items()}
    return {**architecture.state_dict(), **gradients, **averages, **(losses if trainer.processes.first else {})}


class Records(Callback):
    def __init__(self) -> None:
        self.all: list[dict[str, float]] = []

    def on_record(self, trainer: fastgan.Trainer, record: dict) -> None:
        self.all.append({name: value for name, value in record.items() if "/" in name})


def tiny(root: Path, at: int = 0, faults: Mapping[int, Callable[[], object]] = {}, **options: object) -> None:
    """TinyGAN (dropout, a buffer of its own in every process, a data set that draws) in ROOT/run; ranks have ``faults``
    in the critic's updates of step ``at``."""
    trainer = stubs.build("tiny", str(root / "run"), **{**LONG, **options})
    architecture = trainer.architecture
    architecture.register_buffer("seen", torch.zeros(16))
    loss = architecture.critic_loss

    def critic_loss(batch: fastgan.Batch, step: int) -> dict[str, torch.Tensor]:
        architecture.seen.copy_(batch.image[0].flatten())
        terms = loss(batch, step)
        if step + 1 == at and rank() in faults:
            terms["wasserstein"] = terms["wasserstein"].float() * (faults[rank()]() or 1.0)
        return terms

    architecture.critic_loss = critic_loss
    trainer.fit()


def die() -> None:
    os._exit(9)


def fail() -> None:
    raise ValueError("no such luck")


def interrupt() -> None:
    raise KeyboardInterrupt


def hang() -> None:
    watch.GRACE = 1.0
    time.sleep(100)


def freeze() -> None:
    """As a machine that vanishes from the network: no connection is closed."""
    os.kill(os.getpid(), signal.SIGSTOP)


def overflow() -> float:
    """Finite in float32; the gradients, scaled for float16, are not."""
    return 1e30


def impatient() -> None:
    watch.GONE, watch.GRACE = 2.0, 1.0


def alone(root: Path) -> None:
    """A callback, which rank 0 calls alone, makes a call that is everybody's."""

    class Saves(Callback):
        def on_step(self, trainer: fastgan.Trainer) -> None:
            trainer.save()

    tiny(root, callbacks=[Saves()])


def other_options(root: Path) -> None:
    tiny(root, steps=6 + rank())


def adaptive(_: Path) -> dict[str, torch.Tensor]:
    """An augmentation that follows the signs of the discriminator's logits, which a large bias makes positive."""
    torch.manual_seed(5)
    architecture = fastgan.create("dcgan", **stubs.SMALL["dcgan"])
    torch.nn.init.constant_(architecture.discriminator.layers[-1].bias, 9.0)
    augment = fastgan.nn.AdaptiveAugment(images=50, interval=1)
    fastgan.Trainer(architecture, stubs.Images(20, 16), steps=3, batch_size=6, augment=augment, progress=False).fit()
    return {"p": augment.p}


def norms(_: Path) -> dict[str, torch.Tensor]:
    """BatchNorms on parts of unequal size, and the gradients of parameters that not every process has."""
    from fastgan.nn.sync_bn import synchronise

    processes = distributed.join("cpu")
    found = {}
    for case, (model, x, cotangent) in norm_cases().items():
        implementation, fused = case.split()[:2]
        part = slice(0, 3) if rank() == 0 else slice(3, 5)
        if fused == "fused":
            fastgan.fuse(model)
        synchronise(model)
        here = x[part].clone().requires_grad_()
        with fastgan.ops.use(implementation), processes.joint(len(here)):
            y = model(here)
            (y * cotangent[part]).sum().backward()
        processes.average_gradients(model.parameters())
        found |= {f"{case} y": y.detach(), f"{case} grad_x": here.grad}
        found |= {f"{case} {n}": t for n, t in model.state_dict().items()}
        found |= {f"{case} gradient of {n}": p.grad for n, p in model.named_parameters()}
    both, one, none, last = (nn.Parameter(torch.zeros(2, 3, 4, 4)) for _ in range(4))
    last.data = last.data.to(memory_format=torch.channels_last)
    both.grad = torch.full_like(both, 1.0 + rank())
    one.grad = torch.full_like(one, 6.0) if rank() else None
    last.grad = torch.arange(96.0).view_as(last) * (1 + rank())
    processes.average_gradients([both, one, none, last])
    assert none.grad is None
    found |= {"gradient both": both.grad, "gradient one": one.grad, "gradient last": last.grad}
    bn = nn.BatchNorm1d(2)
    synchronise(bn)
    with processes.joint(3):
        x = torch.randn(3, 2, requires_grad=True)
        try:
            torch.autograd.grad(bn(x).square().sum(), x, create_graph=True)
        except RuntimeError as error:
            found["twice"] = str(error)
    return found


def norm_cases() -> dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    """(model, joint x, joint cotangent) by "implementation fused|plain what", the same in every process."""
    torch.manual_seed(0)
    cases = {}
    for implementation in ("reference", "kernel") if _library.LOADED else ("reference",):
        for fused in ("fused", "plain"):
            for activation in (nn.ReLU(inplace=True), nn.LeakyReLU(0.2, inplace=True), nn.Tanh()):
                conv = nn.ConvTranspose2d(3, 4, 4, 2, 1)
                model = nn.Sequential(conv, nn.BatchNorm2d(4), activation).double()
                x = torch.randn(5, 3, 5, 5, dtype=torch.float64)
                cotangent = torch.randn(5, 4, 10, 10, dtype=torch.float64)
                cases[f"{implementation} {fused} {type(activation).__name__}"] = model, x, cotangent
    points = torch.randn(5, 4, dtype=torch.float64)
    options = {
        "affine": {"affine": False},
        "cumulative": {"momentum": None},
        "stateless": {"track_running_stats": False},
    }
    for name, option in options.items():
        cases[f"reference plain {name}"] = nn.BatchNorm1d(4, **option).double(), points, points.flip(0)
    far = torch.randn(5, 4, 8, 8) + 1e4  # E[z^2] - mean^2 would have no digit left
    cases["reference plain far"] = nn.BatchNorm2d(4), far, torch.randn(5, 4, 8, 8)
    return cases


# -- all of them -------------------------------------------------------------------------------------------------------
EQUAL = {"dcgan": ("dcgan", "auto"), "wgan": ("wgan", "auto"), "analytic": ("wgan_gp", "analytic"),
         "double backward": ("wgan_gp", "autograd")}  # fmt: skip


def main(root: Path) -> None:
    crash.import_everything()
    frozen = start(root / "frozen", 2, functools.partial(tiny, at=4, faults={0: impatient, 1: freeze}))
    waiting = [
        frozen[0],
        *start(root / "killed", 2, functools.partial(tiny, at=5, faults={1: die})),
        *start(root / "first killed", 2, functools.partial(tiny, at=2, faults={0: die})),
        *start(root / "raised", 2, functools.partial(tiny, at=3, faults={1: fail})),
        *start(root / "interrupted", 2, functools.partial(tiny, at=2, faults={1: interrupt})),
        *start(root / "stuck", 2, functools.partial(tiny, at=2, faults={0: fail, 1: hang})),
        *start(root / "alone", 2, alone),
        *start(root / "other options", 2, other_options),
    ]
    for scenario, (name, penalty) in EQUAL.items():
        for world in (1, 2, 3) if scenario == "dcgan" else (1, 2):
            wait(*start(root / f"{scenario} {world}", world, functools.partial(train, name, penalty)))
    wait(*start(root / "norms", 2, norms))
    wait(*start(root / "adaptive", 2, adaptive))
    wait(*start(root / "overflow", 2, functools.partial(tiny, at=2, faults={1: overflow}, precision="float16")))
    wait(*start(root / "whole", 2, tiny))
    wait(*waiting)
    os.kill(frozen[1], signal.SIGKILL)
    wait(frozen[1])
    for scenario, world, options in (("resumed", 2, {}), ("by one", 1, {}), ("by three", 3, {})):
        shutil.copytree(root / "killed" / "run", root / "copies" / scenario)
        wait(*start(root / scenario, world, functools.partial(resume, root / "copies" / scenario, options)))


def resume(copy: Path, options: dict, root: Path) -> None:
    if rank() == 0:
        copy.rename(root / "run")
    tiny(root, resume="must", **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
