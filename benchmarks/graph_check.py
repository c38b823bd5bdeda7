"""Trainer(cuda_graph=True) on the device: what only a GPU can tell about recorded updates.

    python benchmarks/graph_check.py [--device cuda] [--only WORD ...]

Checked: a run with graphs has the weights, averages and losses of one without, bit for bit, under deterministic
algorithms (a second run without them is the control); every phase was recorded; memory does not grow over replays;
batches arrive in order while the device is busy; a graph may be destroyed beside others that live on; what cannot be
recorded runs eagerly, also after a capture that failed in the middle, and the phases after it are recorded still.
Steps a second, with and without, are printed beside it.
Exit status: 0 all passed, 1 something failed, 2 no such device.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts

import torch

import fastgan
from fastgan.training import graphs
from fastgan.training.callbacks import Callback
from fastgan.training.static_batches import StaticBatches, Upload

ARCHITECTURES = ("dcgan", "wgan", "wgan_gp")
STEPS = 60
CHECKS: dict[str, Callable] = {}


def check(function: Callable) -> Callable:
    """Collects ``function(device) -> Iterator[(case, failure or None)]``; what is no failure may be said by print."""
    CHECKS[function.__name__] = function
    return function


class Bytes(torch.utils.data.Dataset):
    """Random pictures, the same every time."""

    def __init__(self, count: int = 1000, size: int = 64) -> None:
        self.images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.images[i]

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"image": self.images[indices]}


class Watch(Callback):
    """Memory in use after every step, and the time of the second half of the run."""

    def __init__(self) -> None:
        self.allocated: list[int] = []
        self.reserved: list[int] = []
        self.rate = 0.0

    def on_step(self, trainer: fastgan.Trainer) -> None:
        self.allocated.append(torch.cuda.memory_allocated(trainer.device))
        self.reserved.append(torch.cuda.memory_reserved(trainer.device))
        if trainer.step in (STEPS // 2, STEPS):
            torch.cuda.synchronize(trainer.device)
            self.rate = (STEPS - STEPS // 2) / (time.perf_counter() - self.rate) if self.rate else time.perf_counter()


def train(
    name: str, device: torch.device, *, change: Callable = lambda gan: None, model: dict | None = None, **options
) -> fastgan.Trainer:
    torch.manual_seed(0)
    gan = fastgan.create(name, **({"n_critic_warmup": 5} if name == "wgan" else {}), **(model or {}))
    change(gan)
    defaults = {"steps": STEPS, "deterministic": True, "progress": False, "log_every": None, "precision": "float32"}
    trainer = fastgan.Trainer(gan, Bytes(), device=device, **{**defaults, "callbacks": [Watch()], **options})
    trainer.fit()
    return trainer


@contextmanager
def unrecorded() -> Iterator[None]:
    """Inside, all is as with graphs (capturable optimisers, static batches, the stream) but nothing is recorded."""
    before, graphs.WARM_UP = graphs.WARM_UP, 10**9
    try:
        yield
    finally:
        graphs.WARM_UP = before


def state(trainer: fastgan.Trainer) -> dict[str, torch.Tensor]:
    tensors = {**trainer.architecture.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.tensors.items()}}
    return tensors | {f"loss.{name}": torch.tensor(mean) for name, mean in trainer._meter.means().items()}


def difference(a: fastgan.Trainer, b: fastgan.Trainer) -> str | None:
    one, other = state(a), state(b)
    unequal = [name for name in one if not torch.equal(one[name], other[name])]
    if not unequal:
        return None
    worst = max((one[name].double() - other[name].double()).abs().max().item() for name in unequal)
    return f"{len(unequal)} of {len(one)} tensors differ, first {unequal[0]}, by up to {worst:.3g}"


def not_recorded(trainer: fastgan.Trainer, expected: dict[str, str] | None = None) -> str | None:
    """What of the report is neither "recorded" nor what ``expected`` says it begins with."""
    wrong = [
        f"{phase}: {how}"
        for phase, how in trainer.updates.report.items()
        if not how.startswith((expected or {}).get(phase, "recorded"))
    ]
    return "; ".join(wrong) or (None if trainer.updates.report else "nothing was reported")


def rate(trainer: fastgan.Trainer) -> float:
    return next(c.rate for c in trainer.callbacks if isinstance(c, Watch))


@check
def equal_runs(device: torch.device) -> Iterator[tuple[str, str | None]]:
    for name in ARCHITECTURES:
        graphed = train(name, device, cuda_graph=True)
        yield f"{name} recorded", not_recorded(graphed)
        with unrecorded():
            eager, control = (train(name, device, cuda_graph=True) for _ in range(2))
        yield f"{name} control: two eager runs", difference(eager, control)
        yield f"{name} graphed against eager", difference(graphed, eager)
        plain = train(name, device)
        if name != "wgan":  # RMSprop's capturable form may round otherwise
            yield f"{name} graphed against cuda_graph=False", difference(graphed, plain)
        print(f"         {name}: {rate(graphed):.1f} steps/s with graphs, {rate(plain):.1f} without, deterministic")


@check
def memory(device: torch.device) -> Iterator[tuple[str, str | None]]:
    for name in ARCHITECTURES:
        watch = next(c for c in train(name, device, cuda_graph=True).callbacks if isinstance(c, Watch))
        for kind in ("allocated", "reserved"):
            values = getattr(watch, kind)[-50:]
            yield f"{name} {kind} over 50 steps", None if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


class Upset(Callback):
    """Half-way changes an option, so that one graph is destroyed and recorded anew, and writes over all free memory."""

    def on_step(self, trainer: fastgan.Trainer) -> None:
        if trainer.step == STEPS // 2:
            trainer.optimizers["critic"].param_groups[0]["eps"] = 1e-7
        if trainer.step > STEPS // 2:
            junk = [torch.full((size,), float("nan"), device=trainer.device) for size in (2**10, 2**18, 2**21, 2**23)]
            del junk


@check
def recorded_anew(device: torch.device) -> Iterator[tuple[str, str | None]]:
    """Perceptrons: all they compute is cuBLAS, whose workspaces are shared by the graphs of a stream."""
    for name in ("wgan", "wgan_gp"):
        options = {"generator": "mlp", "critic": "mlp", "image_size": 64}
        graphed = train(name, device, cuda_graph=True, model=options, callbacks=[Upset()])
        yield f"{name} recorded", not_recorded(graphed)
        with unrecorded():
            eager = train(name, device, cuda_graph=True, model=options, callbacks=[Upset()])
        yield f"{name} graphed against eager", difference(graphed, eager)


@check
def order_of_batches(device: torch.device) -> Iterator[tuple[str, str | None]]:
    recorder = graphs.CudaRecorder(device)
    work = torch.randn(2048, 2048, device=device)
    for pinned in (False, True):
        with recorder.session():
            place, seen = StaticBatches(device, Upload(device)), []
            for i in range(200):
                image = torch.full((16, 3, 64, 64), i, dtype=torch.uint8)
                batch = place({"image": image.pin_memory() if pinned else image, "index": torch.full((16,), i)})
                if i % 3:
                    work @ work @ work
                seen.append(torch.stack([batch.image.min(), batch.image.max(), batch.index.float().mean()]))
            seen = torch.stack(seen).cpu()
        number = torch.arange(200.0)
        picture = torch.arange(200, dtype=torch.uint8).to(device).float().div_(127.5).sub_(1.0).cpu()
        wrong = (seen != torch.stack([picture, picture, number], 1)).any(1).nonzero().flatten().tolist()
        yield f"200 batches, pinned={pinned}", f"wrong are {wrong[:10]}" if wrong else None


def reads_back(gan: fastgan.Architecture) -> None:
    loss = gan.discriminator_loss

    def waits(batch, step):
        terms = loss(batch, step)
        return {**terms, "value": torch.tensor(terms["adversarial"].item(), device=gan.device)}

    gan.discriminator_loss = waits


def reads_step(gan: fastgan.Architecture) -> None:
    loss = gan.generator_loss
    gan.generator_loss = lambda batch, step: {name: term * (1 + step) for name, term in loss(batch, step).items()}


@check
def fallback(device: torch.device) -> Iterator[tuple[str, str | None]]:
    """A discriminator whose loss waits for the device; the generator comes after it."""
    plain = train("dcgan", device, change=reads_back)
    seen = train("dcgan", device, change=reads_back, cuda_graph=True)
    yield "rehearsal sees it", not_recorded(seen, {"train/discriminator": "eager: it waits for the device"})
    yield "rehearsal, weights", difference(seen, plain)

    rehearse = graphs.CudaRecorder.rehearse
    graphs.CudaRecorder.rehearse = lambda self, function: (function(), None)
    try:
        failed = train("dcgan", device, change=reads_back, cuda_graph=True)
    finally:
        graphs.CudaRecorder.rehearse = rehearse
    print(f"         a failed capture: {failed.updates.report}")
    yield "after a failed capture", not_recorded(failed, {"train/discriminator": "eager: "})
    yield "after a failed capture, weights", difference(failed, plain)

    stepped = train("dcgan", device, change=reads_step, cuda_graph=True)
    yield "a loss of the step", not_recorded(stepped, {"train/generator": "eager: its loss"})
    yield "a loss of the step, weights", difference(stepped, train("dcgan", device, change=reads_step))


@check
def other_settings(device: torch.device) -> Iterator[tuple[str, str | None]]:
    fast = {"deterministic": False}
    for name in ARCHITECTURES:
        graphed, plain = train(name, device, cuda_graph=True, **fast), train(name, device, **fast)
        yield f"{name} recorded, not deterministic", not_recorded(graphed)
        print(f"         {name}: {rate(graphed):.1f} steps/s with graphs, {rate(plain):.1f} without")
    yield "two workers", not_recorded(train("dcgan", device, cuda_graph=True, num_workers=2))
    if torch.cuda.device_count() > 1:
        other = torch.device("cuda", 1)
        yield "second device", difference(train("dcgan", other, cuda_graph=True), train("dcgan", other))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="checks whose name contains one of these")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("graph_check: this torch sees no GPU; nothing was checked")
        return 2
    device = torch.device(options.device)
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, fastgan {fastgan.__version__}")
    failed = 0
    for name, function in CHECKS.items():
        if options.only and not any(word in name for word in options.only):
            continue
        try:
            for case, failure in function(device):
                failed += failure is not None
                print(
                    f"{'passed' if failure is None else 'FAILED'}   {name}: {case}{f': {failure}' if failure else ''}"
                )
        except Exception:
            failed += 1
            print(f"FAILED   {name}: {traceback.format_exc()}")
    print(f"{failed} failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
