"""How a fused model is run: by reference, by the fused op whatever it is made of, and by the kernels."""

import pytest
import torch
from on_gpu import ON_GPU, on_gpu

import fastgan.nn.chains
import fastgan.nn.fused
from fastgan import ops
from fastgan.ops import _dispatch, _library
from fastgan.ops.bn_act import activation_gap


@pytest.fixture(autouse=True)
def every_convolution_covered(monkeypatch):
    """Chains of one convolution are found wherever there could be a kernel for it, also where none is built."""
    monkeypatch.setattr(fastgan.nn.chains, "covered", lambda weight, *options: True)


@pytest.fixture
def fused_op(monkeypatch):
    """Chains run through the fused op wherever a kernel could, also where none is built; a list of the ops taken."""
    taken = []

    def whenever_possible(conv, x, *rest):
        *_, activation, negative_slope = rest
        possible = x.numel() > 0 and activation_gap(activation, negative_slope) is None
        if possible:
            taken.append(conv.name)
        return possible

    monkeypatch.setattr(fastgan.nn.fused, "takes_kernel", whenever_possible)
    with ops.use("auto"):
        yield taken


@pytest.fixture(params=["reference", "fused_op", *(["kernel"] if _library.LOADED else []), *ON_GPU])
def implementation(request, monkeypatch):
    """Every test that takes this runs by each implementation that there is."""
    for limit in ("SMALL", "SMALL_ALONE"):  # so that `auto` takes kernels for tiny tensors too
        monkeypatch.setattr(f"fastgan.ops._conv_bn_act.{limit}", 0)
    if request.param == "fused_op":
        request.getfixturevalue("fused_op")
        yield request.param
        return
    if request.param in ON_GPU:  # as if its kernels had been verified there, so that `auto` takes them
        monkeypatch.setattr(_dispatch, "VERIFIED_CUDA", frozenset({torch.cuda.get_device_capability()}))
        with on_gpu(), ops.use("auto"):
            yield "kernel"
        return
    with ops.use("auto" if request.param == "kernel" else "reference"):
        yield request.param
