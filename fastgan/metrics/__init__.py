"""Measures of generated images. What depends on a feature net bears its name: ``{"fid[random_conv_v1]": 12.3}``.

``Measure`` computes FID, KID, IS, precision, recall, density and coverage in one pass; the functions beneath it take
features. ``psnr``, ``ssim`` and ``ms_ssim`` compare images, ``PerceptualDistance`` their activations;
``mixture_coverage`` and ``class_coverage`` count modes; ``CollapseDetector`` judges diversity.
"""

from fastgan.metrics.collapse import CollapseDetector, CollapseReport
from fastgan.metrics.features import FEATURE_NETS, FeatureNet, RandomConvFeatures, load_features
from fastgan.metrics.frechet import Moments, frechet_distance, symmetric_root
from fastgan.metrics.inception_score import inception_score
from fastgan.metrics.kernel import kernel_distance, squared_mmd
from fastgan.metrics.manifold import density_coverage, nearest_distances, precision_recall
from fastgan.metrics.measure import METRICS, Measure
from fastgan.metrics.modes import ModeCoverage, class_coverage, mixture_coverage
from fastgan.metrics.perceptual import PerceptualDistance
from fastgan.metrics.similarity import ms_ssim, psnr, ssim

__all__ = [
    "FEATURE_NETS",
    "METRICS",
    "CollapseDetector",
    "CollapseReport",
    "FeatureNet",
    "Measure",
    "ModeCoverage",
    "Moments",
    "PerceptualDistance",
    "RandomConvFeatures",
    "class_coverage",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_features",
    "mixture_coverage",
    "ms_ssim",
    "nearest_distances",
    "precision_recall",
    "psnr",
    "squared_mmd",
    "ssim",
    "symmetric_root",
]
