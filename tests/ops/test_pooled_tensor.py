"""Large results of CPU kernels lie in memory kept for the next call; torch before 2.11 cannot take such memory."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.torch_version import TorchVersion

from fastgan import ops

POOLED = TorchVersion(torch.__version__) >= (2, 11)
BYTES = 4 * 8 * 64 * 32 * 32

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(autouse=True)
def empty_pool():
    ops.release_workspaces()


def result() -> torch.Tensor:
    """(8, 64, 32, 32), with all that belongs to it but its own memory gone."""
    x = torch.ones(8, 64, 32, 32, requires_grad=True)
    with ops.use("kernel"):
        y = ops.conv2d_bn_act(x, torch.ones(64, 64, 1, 1), norm=True, activation="relu").y
    return y.detach()


def test_memory_serves_the_next_result():
    y = result()
    place = y.data_ptr()
    ops.release_workspaces()
    del y
    assert (result().data_ptr() == place) or not POOLED
    assert (ops.release_workspaces() >= BYTES) == POOLED


def test_results_outlive_what_the_pool_gives_back():
    y = result().fill_(3.0)
    ops.release_workspaces()
    other = result().fill_(5.0)
    assert y.data_ptr() != other.data_ptr()
    assert (y == 3.0).all() and (other == 5.0).all()


def test_results_may_end_in_another_thread():
    held = [result()]
    ops.release_workspaces()
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert (ops.release_workspaces() >= BYTES) == POOLED


def test_a_view_keeps_the_memory():
    y = result().fill_(3.0)
    view = y[2:, 5]
    del y
    result().fill_(5.0)
    assert (view == 3.0).all()


def test_results_can_be_shared_and_saved(tmp_path):
    y = result().fill_(3.0)
    torch.save(y, tmp_path / "y.pt")
    assert torch.equal(torch.load(tmp_path / "y.pt"), y)
    assert y.share_memory_().is_shared()
    assert (y == 3.0).all()
