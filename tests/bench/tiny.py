"""Every kind of benchmark at sizes that take milliseconds."""

from __future__ import annotations

from dataclasses import replace

from fastgan.bench import shapes
from fastgan.bench.case import Case
from fastgan.bench.clip_weights import CRITICS, ClipWeightsCase
from fastgan.bench.conv_bn_act import ConvBnActCase
from fastgan.bench.gradient_penalty import GradientPenaltyCase
from fastgan.bench.network import NETWORKS, NetworkCase
from fastgan.bench.passes import PASSES, PassCase
from fastgan.bench.preset import PresetCase
from fastgan.bench.rmsprop import RMSpropCase
from fastgan.bench.step import ARCHITECTURES, StepCase
from fastgan.bench.timer import Settings

SETTINGS = Settings(rounds=2, warmup=1, budget_s=1e-3, least_sample_s=0.0)


def layer(full: shapes.ConvLayer) -> shapes.ConvLayer:
    """The layer with few channels; the ends (RGB, one logit) keep theirs, and sizes beyond 16 shrink to 16."""

    def few(channels: int) -> int:
        return channels if channels <= 3 else max(channels // 32, 4)

    return replace(full, c_in=few(full.c_in), c_out=few(full.c_out), size=min(full.size, 16))


LAYERS = [layer(full) for full in (*shapes.GENERATOR, *shapes.DISCRIMINATOR, *shapes.GP_CRITIC)]
CLIPS = [ClipWeightsCase(critic, image_size=16, ndf=8, hidden=16) for critic in CRITICS]
CASES: list[Case] = [
    *(ConvBnActCase(small, batch_size=4) for small in LAYERS),
    *CLIPS,
    *(RMSpropCase(clip) for clip in CLIPS),
    *(GradientPenaltyCase(c, 1.0, batch_size=4, image_size=16, ndf=8) for c in ("WGAN-GP", "instance norm")),
    *(NetworkCase(n, batch_size=8, image_size=16, width=8) for n in NETWORKS),
    *(StepCase(a, batch_size=8, image_size=16, width=8) for a in ARCHITECTURES),
    *(PresetCase(*preset, batch_size=8) for preset in (("acgan", "fashion_mnist"), ("vat", "scenes"))),
]
# What only a GPU's list has.
PASS_CASES = [PassCase(op, (3, 8, 4, 5), layout) for op in PASSES for layout in ("channels_last", "NCHW")]
