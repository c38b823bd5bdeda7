"""`fuse` on models nobody here wrote: outputs, gradients, running statistics and state stay what they were."""

from __future__ import annotations

import pytest
import torch

from fastgan.nn import fuse, unfuse

from .compare import assert_same_step, descend, twins
from .wild_models import WILD


def prepared(wild, dtype):
    torch.manual_seed(0)
    model = wild.model()
    inputs = wild.inputs()
    with torch.no_grad():
        model.eval()(*inputs)  # lazy layers take their shape
    model.train()
    return model.to(dtype), tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("wild", WILD, ids=lambda wild: wild.name)
def test_steps_agree(wild, dtype, implementation):
    model, inputs = prepared(wild, dtype)
    fused, plain = twins(model)
    returned, report = fuse(fused, report=True)
    assert returned is fused
    assert len(report.fused) == wild.fused
    assert len(report.alone) == wild.alone
    assert len(report.left) == wild.convolutions - wild.fused - wild.alone
    for _ in range(2):
        assert_same_step(fused, plain, inputs, exact=implementation == "reference")
        descend(fused, plain)
        descend(plain, plain)
    fused.eval()
    plain.eval()
    assert_same_step(fused, plain, inputs, exact=implementation == "reference")


@pytest.mark.parametrize("wild", WILD, ids=lambda wild: wild.name)
def test_fused_ops_are_taken(wild, fused_op):
    model, inputs = prepared(wild, torch.float32)
    fuse(model)(*inputs)
    # The feature discriminator calls the Sequential's layers one by one: its longer chain never runs fused.
    assert len(fused_op) == wild.alone + (0 if wild.name == "feature_discriminator" else wild.fused)


@pytest.mark.parametrize("wild", WILD, ids=lambda wild: wild.name)
def test_state_and_identity_stay(wild, fused_op):
    model, inputs = prepared(wild, torch.float32)
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    values = {k: v.clone() for k, v in model.state_dict().items()}
    modules = {name: (m, type(m), set(vars(m))) for name, m in model.named_modules()}
    fuse(model)
    assert {name: m for name, m in model.named_modules()} == {name: m for name, (m, _, _) in modules.items()}
    assert list(model.state_dict()) == list(values)
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(after[name] is tensor for name, tensor in before.items())
    for name, (m, kind, _) in modules.items():
        assert isinstance(m, kind)
        for word in ("Conv", "BatchNorm"):
            assert (word in type(m).__name__) == (word in kind.__name__), name
    model(*inputs)
    assert unfuse(model) is model
    assert {name: (m, type(m), set(vars(m))) for name, m in model.named_modules()} == modules


def test_report_names_chains_and_reasons():
    alone = {
        "cyclegan_generator": "followed by InstanceNorm2d",
        "unet": "used 2 times",
        "resnet_generator": "followed by tanh, which is no module",
        "dcgan_discriminator": "followed by Sigmoid",
        "feature_discriminator": "followed by flatten",
    }
    left = {
        "cyclegan_generator": ["padding_mode is 'reflect'", "padding is 'same'"],
        "shared_convolution": ["called 2 times"],
        "spectral_norm_critic": ["parametrised", "parametrised"],
        "upsampler": ["output_size"],
        "control_flow": ["the model cannot be traced"],
    }
    for wild in WILD:
        report = fuse(prepared(wild, torch.float32)[0], report=True)[1]
        assert [str(chain) in str(report) for chain in report.fused] == [True] * wild.fused
        for reason, word in zip(report.left.values(), left.get(wild.name, []), strict=True):
            assert word in reason
        assert all(alone[wild.name] in reason for reason in report.alone.values())
        if wild.name == "nested_sequential":
            assert [str(chain) for chain in report.fused] == [
                "0.0 + 0.1",
                "1.0.0 + 1.0.1 + 1.0.2",
                "1.1.0 + 1.1.1 + 1.2",
            ]
            assert [chain.root for chain in report.fused] == ["0", "1.0", "1"]
        if wild.name == "cyclegan_generator":
            title = "fused: 0 of 3 convolutions\nalone, by a kernel where one is faster:\n  model.1: it is followed by"
            assert str(report).startswith(title)
            assert "\nnot fused:\n  model.4: padding_mode" in str(report)
