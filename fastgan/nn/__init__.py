"""Modules and model surgery: `fuse` and `unfuse` for anybody's model, weight initialisation."""

from fastgan.nn.fuse import FusedChain, FuseReport, fuse, unfuse
from fastgan.nn.init import dcgan_init

__all__ = ["FuseReport", "FusedChain", "dcgan_init", "fuse", "unfuse"]
