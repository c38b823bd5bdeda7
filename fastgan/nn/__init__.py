"""Modules and model surgery: `fuse` and `unfuse` for anybody's model, augmentations, weight initialisation."""

from fastgan.nn.ada import AdaptiveAugment
from fastgan.nn.diffaugment import DiffAugment
from fastgan.nn.fuse import FusedChain, FuseReport, fuse, unfuse
from fastgan.nn.init import dcgan_init

__all__ = ["AdaptiveAugment", "DiffAugment", "FuseReport", "FusedChain", "dcgan_init", "fuse", "unfuse"]
