"""Modules and model surgery: `fuse` and `unfuse` for anybody's model, weight initialisation, layers torch lacks."""

from fastgan.nn.fuse import FusedChain, FuseReport, fuse, unfuse
from fastgan.nn.init import dcgan_init
from fastgan.nn.layers import AlwaysDropout, ReplayBuffer

__all__ = ["AlwaysDropout", "FuseReport", "FusedChain", "ReplayBuffer", "dcgan_init", "fuse", "unfuse"]
