"""The counted bytes against counts by hand."""

from __future__ import annotations

import pytest
import torch

from fastgan.bench.floor import bytes_of, seconds_at_copy_speed


def test_bytes_by_hand():
    batch = [(128, 64, 32, 32)]  # 8388608 elements
    assert bytes_of("bn_stats", batch, torch.bfloat16) == 2 * 8388608
    assert bytes_of("bn_act", batch, torch.float32) == 8 * 8388608
    assert bytes_of("bn_act_backward_reduce", batch, torch.bfloat16) == 4 * 8388608
    assert bytes_of("bn_act_backward_elemt", batch, torch.bfloat16, "tanh") == 8 * 8388608
    parameters = [(2, 3), (5,), ()]  # 12 elements
    assert bytes_of("rmsprop_clip_", parameters, torch.float32) == 12 * 4 * 5
    assert bytes_of("rmsprop_clip_", parameters, torch.float32, "centered", "momentum") == 12 * 4 * 9
    assert seconds_at_copy_speed(43, 4.3) == pytest.approx(10)


def test_refusals():
    with pytest.raises(ValueError, match="op is 'bn'; it takes one of bn_stats"):
        bytes_of("bn", [(1,)], torch.float32)
    with pytest.raises(ValueError, match="option of bn_act is 'tanh'; it takes none"):
        bytes_of("bn_act", [(1,)], torch.float32, "tanh")
