"""What a machine's driver and GPU mean for the CUDA kernels, in words; simulated, since neither need be here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fastgan import _info
from fastgan.ops import _dispatch

H200 = torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch):
    """machine(driver, capability): a build of the kernels with CUDA 13.0 for sm_80 and sm_90, on such a machine."""

    def pretend(driver=(13, 0), capability=(9, 0)) -> None:
        build = {"cuda": "13.0", "cuda_archs": "sm_80 sm_90"}
        monkeypatch.setattr(_dispatch._library, "C", SimpleNamespace(build_info=lambda: build))
        monkeypatch.setattr(_dispatch, "_HAS_CUDA", True)
        monkeypatch.setattr(_dispatch, "driver_version", lambda: driver)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        _dispatch._device_gap.cache_clear()

    yield pretend
    _dispatch._device_gap.cache_clear()


@pytest.mark.parametrize(
    ("driver", "capability", "gap"),
    [
        ((13, 0), (9, 0), None),
        ((13, 1), (8, 6), None),
        ((14, 0), (10, 0), None),  # by the newest architecture's PTX
        ((12, 6), (9, 0), "built with CUDA 13.0 and the driver is for CUDA 12.6: update the driver, or reinstall"),
        ((13, 0), (7, 5), "built for sm_80 sm_90 and cuda:0 is sm_75"),
    ],
)
def test_gap(machine, driver, capability, gap):
    machine(driver, capability)
    found = _dispatch.device_gap(H200)
    assert found is None if gap is None else gap in found


def test_torch_compile_does_not_trace_it(machine, monkeypatch):
    machine(driver=(12, 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # dynamo would open the device

    def double_where_possible(x):
        return x if _dispatch.device_gap(x.device) else 2 * x

    torch._dynamo.reset()
    compiled = torch.compile(double_where_possible, fullgraph=True, backend="eager")
    assert compiled(torch.ones(1)).item() == 1


def test_info_in_words(machine, monkeypatch):
    machine(driver=(12, 4))
    assert "not for this machine: the kernels were built with CUDA 13.0" in _info._cuda()
    machine()
    assert "not verified on hardware like NVIDIA H200 (sm_90): 'auto' takes the reference" in _info._cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _info._cuda() == "CUDA kernels built, not verified on hardware; no CUDA device here"
    monkeypatch.setattr(_dispatch, "VERIFIED_CUDA", frozenset({(9, 0), (8, 0)}))
    assert _info._cuda() == "CUDA kernels built, verified on sm_80, sm_90; no CUDA device here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _info._cuda() == "CUDA kernels built and verified on NVIDIA H200 (sm_90)"
