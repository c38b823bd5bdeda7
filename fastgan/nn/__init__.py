"""Modules and model surgery: `fuse` and `unfuse` for anybody's model, augmentations, layers torch lacks."""

from fastgan.nn.ada import AdaptiveAugment
from fastgan.nn.diffaugment import DiffAugment
from fastgan.nn.fuse import FusedChain, FuseReport, fuse, unfuse
from fastgan.nn.init import dcgan_init
from fastgan.nn.layers import (
    AlwaysDropout,
    GaussianNoise,
    HistoricalAverage,
    MinibatchDiscrimination,
    ReplayBuffer,
    VirtualBatchNorm,
    kept_statistics,
    virtual_batch_norm_,
)
from fastgan.nn.pyramid import build_pyramid, collapse_pyramid

__all__ = [
    "AdaptiveAugment",
    "AlwaysDropout",
    "DiffAugment",
    "FuseReport",
    "FusedChain",
    "GaussianNoise",
    "HistoricalAverage",
    "MinibatchDiscrimination",
    "ReplayBuffer",
    "VirtualBatchNorm",
    "build_pyramid",
    "collapse_pyramid",
    "dcgan_init",
    "fuse",
    "kept_statistics",
    "unfuse",
    "virtual_batch_norm_",
]
