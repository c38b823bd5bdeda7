"""Measures of generated images. Every name says which feature net it was measured in."""

from fastgan.metrics.features import FEATURE_NETS, RandomConvFeatures
from fastgan.metrics.frechet import FrechetDistance, frechet_distance, gaussian_statistics, symmetric_root

__all__ = [
    "FEATURE_NETS",
    "FrechetDistance",
    "RandomConvFeatures",
    "frechet_distance",
    "gaussian_statistics",
    "symmetric_root",
]
