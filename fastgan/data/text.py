"""Captions as numbers: the bytes of UTF-8, so that no vocabulary has to travel with a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["TEXT_LENGTH", "encode_captions"]

TEXT_LENGTH = 256  # bytes of a caption that are kept: one width for all sets and batches


def encode_captions(captions: Sequence[str]) -> torch.Tensor:
    """Captions as ``Batch.text`` holds them: (N, TEXT_LENGTH) int64 in 0..255, zeros behind the end."""
    text = np.zeros((len(captions), TEXT_LENGTH), np.int64)
    for row, caption in zip(text, captions, strict=True):
        encoded = np.frombuffer(caption.encode()[:TEXT_LENGTH], np.uint8)
        row[: len(encoded)] = encoded
    return torch.from_numpy(text)
