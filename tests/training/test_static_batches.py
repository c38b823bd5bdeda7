"""Batches that keep their place: the same values as fresh ones, in the right order whatever the device does when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.training import static_batches
from fastgan.training.batches import BatchStream
from fastgan.training.static_batches import StaticBatches, Upload

from .stubs import Images, Noisy

CPU = torch.device("cpu")


@pytest.mark.parametrize("data", [Images(10), Noisy(10)], ids=["bytes", "floats"])
def test_values_are_those_of_fresh_batches_and_addresses_stay(data: Images) -> None:
    fresh, static = BatchStream(data, 3), BatchStream(data, 3)
    static.place = StaticBatches(CPU, nullcontext)
    places = set()
    for _ in range(5):
        expected, batch = vars(fresh.next()), vars(static.next())
        assert all(torch.equal(batch[name], value) for name, value in expected.items() if value is not None)
        assert batch["image"].dtype == torch.float32 and batch["latent"] is None
        places.add(tuple(value.data_ptr() for value in batch.values() if value is not None))
    assert len(places) == 1


def test_another_kind_of_batch_has_another_place() -> None:
    place = StaticBatches(CPU, nullcontext)
    small, large = ({"image": torch.full((n, 1, 2, 2), float(n))} for n in (2, 3))
    first = place(small)
    assert place(large).image.shape == (3, 1, 2, 2)
    assert place(small).image is first.image and first.image.eq(2).all()


class Device(TorchDispatchMode):
    """Streams whose work is done when ``eager`` says, or when an event or the end asks for it, and not before.

    Work is copying and arithmetic in place on anything but pinned memory. What an event does not order, ``eager`` may.
    """

    def __init__(self, eager: Callable[[str], bool]) -> None:
        super().__init__()
        self.eager = eager
        self.compute, self.upload = Stream(self, "compute"), None
        self.current = self.compute
        self.pinned: set[int] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        in_place = operator._schema.name.endswith("_") and args[0].data_ptr() not in self.pinned
        if not in_place:
            return operator(*args, **(kwargs or {}))
        self.current.put(lambda: operator(*args, **(kwargs or {})))
        return args[0]

    def make_stream(self, device: torch.device) -> Stream:
        self.upload = Stream(self, "upload")
        return self.upload

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def empty_like(self, tensor: torch.Tensor, *, pin_memory: bool = False, **options: object) -> torch.Tensor:
        made = torch.zeros_like(tensor, **options)
        if pin_memory:
            self.pinned.add(made.data_ptr())
        return made


class Stream:
    def __init__(self, device: Device, name: str) -> None:
        self.device, self.name = device, name
        self.work: list[Callable[[], object]] = []
        self.done = 0

    def put(self, work: Callable[[], object]) -> None:
        self.work.append(work)
        if self.device.eager(self.name):
            self.catch_up(len(self.work))

    def catch_up(self, count: int) -> None:
        while self.done < count:
            self.done += 1
            with torch.utils._python_dispatch._disable_current_modes():
                self.work[self.done - 1]()

    def wait_event(self, event: Event) -> None:
        at = event.at
        self.put(lambda: at and at[0].catch_up(at[1]))


class Event:
    at: tuple[Stream, int] | None = None

    def record(self, stream: Stream) -> None:
        self.at = stream, len(stream.work)

    def synchronize(self) -> None:
        if self.at:
            self.at[0].catch_up(self.at[1])


class Cuda:
    """What static_batches.py uses of torch.cuda."""

    def __init__(self, device: Device) -> None:
        self.Stream, self.Event, self.stream = device.make_stream, Event, device.stream
        self.current_stream = lambda _: device.compute


@pytest.mark.parametrize("first", ["none", "compute", "upload", "both"])
def test_uploads_never_overwrite_what_is_still_to_be_read(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(lambda name: first in (name, "both"))
    monkeypatch.setattr(static_batches.torch, "cuda", Cuda(device))
    monkeypatch.setattr(static_batches.torch, "empty_like", device.empty_like)
    place, seen = StaticBatches(CPU, Upload(CPU)), []
    with device:
        for i in range(8):
            batch = place({"image": torch.full((2, 1, 2, 2), i, dtype=torch.uint8), "label": torch.tensor([i, -i])})
            device.compute.put(lambda batch=batch: seen.append((batch.image.mean().item(), batch.label.tolist())))
        device.compute.catch_up(len(device.compute.work))
    expected = [(pytest.approx(i / 127.5 - 1, abs=1e-6), [i, -i]) for i in range(8)]
    assert seen == expected
