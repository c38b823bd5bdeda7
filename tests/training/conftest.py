"""For all tests here: one thread, and no waiting for the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from .cpu_graphs import recorder

__all__ = ["no_fsync", "one_thread", "recorder"]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """The tensors are tiny, and the waiting threads of a pool cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is called, test_checkpoint shows by letting it fail; a busy disk makes it slow."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
