"""The averaged generators: arithmetic, buffers, exchange and state."""

from __future__ import annotations

import copy

import pytest
import torch

from fastgan.training.ema import ExponentialMovingAverage

from .stubs import TinyGAN


def change(model: TinyGAN) -> None:
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.generator(model.latent(8))  # moves BatchNorm's buffers


def test_average_follows_the_formula_with_warm_up() -> None:
    torch.manual_seed(0)
    model = TinyGAN()
    ema = ExponentialMovingAverage(model, decay=0.3)
    expected = model.generator[0].weight.detach().double().clone()
    for t in range(6):
        change(model)
        ema.update()
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.generator[0].weight.detach().double()
    torch.testing.assert_close(ema.tensors["generator.0.weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_buffers_are_copied_and_the_discriminator_is_left_out() -> None:
    model = TinyGAN()
    ema = ExponentialMovingAverage(model)
    change(model)
    ema.update()
    norm = model.generator[1]
    assert torch.equal(ema.tensors["generator.1.running_mean"], norm.running_mean)
    assert torch.equal(ema.tensors["generator.1.running_var"], norm.running_var)
    assert ema.tensors["generator.1.num_batches_tracked"].item() == 1
    assert all(name.startswith("generator.") for name in ema.tensors)


def test_decay_zero_follows_the_weights() -> None:
    model = TinyGAN()
    ema = ExponentialMovingAverage(model, decay=0.0)
    change(model)
    ema.update()
    assert all(torch.equal(ema.tensors[f"generator.{k}"], v) for k, v in model.generator.state_dict().items())


def test_applied_exchanges_values_and_puts_them_back() -> None:
    torch.manual_seed(0)
    model = TinyGAN()
    ema = ExponentialMovingAverage(model)
    before_training = copy.deepcopy(model.generator.state_dict())
    change(model)
    trained = copy.deepcopy(model.generator.state_dict())
    parameters = list(model.generator.parameters())
    with pytest.raises(KeyError), ema.applied():
        assert all(torch.equal(v, before_training[k]) for k, v in model.generator.state_dict().items())
        raise KeyError
    assert all(torch.equal(v, trained[k]) for k, v in model.generator.state_dict().items())
    assert all(torch.equal(ema.tensors[f"generator.{k}"], v) for k, v in before_training.items())
    assert all(a is b for a, b in zip(parameters, model.generator.parameters(), strict=True))


def test_a_buffer_replaced_by_assignment_is_followed() -> None:
    model = TinyGAN()
    ema = ExponentialMovingAverage(model)
    model.generator[1].running_mean = torch.full((8,), 3.0)
    ema.update()
    assert ema.tensors["generator.1.running_mean"].tolist() == [3.0] * 8


def test_state_dict_round_trip() -> None:
    model = TinyGAN()
    ema = ExponentialMovingAverage(model)
    change(model)
    ema.update()
    other = ExponentialMovingAverage(TinyGAN())
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    assert other.updates == 1
    assert all(torch.equal(other.tensors[k], v) for k, v in ema.tensors.items())


def test_tied_weights_are_averaged_once() -> None:
    model = TinyGAN()
    model.generator.append(model.generator[0])
    ema = ExponentialMovingAverage(model, decay=0.9)
    start = model.generator[0].weight.detach().clone()
    with torch.no_grad():
        model.generator[0].weight.add_(1.0)
    ema.update()  # the first update keeps a tenth of the old average
    torch.testing.assert_close(ema.tensors["generator.0.weight"], start + 0.9)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_bad_decay(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_decay is .* it takes a number from 0"):
        ExponentialMovingAverage(TinyGAN(), decay)


def test_unknown_generator() -> None:
    model = TinyGAN()
    model.generators = ("decoder",)
    with pytest.raises(ValueError, match="'decoder', which is no submodule"):
        ExponentialMovingAverage(model)
