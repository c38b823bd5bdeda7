"""TensorBoard: a run's records as scalars and its sample grids as images, in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.training.callbacks import Callback

if TYPE_CHECKING:
    from fastgan.training.trainer import Trainer

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes what metrics.jsonl and samples/ hold as event files for ``tensorboard --logdir``.

    A resumed run goes on in the same curves: what was written behind its checkpoint is hidden.

    Args:
        folder: of the event files; None: RUN/tensorboard, and nothing for a run in memory.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("event files need tensorboard: pip install 'fastgan[log]'") from error
        self.folder = folder
        self._make_writer = SummaryWriter
        self._writer: Any = None

    def on_start(self, trainer: Trainer) -> None:
        folder = self.folder or (trainer.run and trainer.run.path / "tensorboard")
        if folder is not None:
            self._writer = self._make_writer(str(folder), purge_step=trainer.step + 1)

    def on_step(self, trainer: Trainer) -> None:
        if self._writer is None or trainer.run is None:
            return
        grid = trainer.run.sample(trainer.step)
        if grid.exists():
            from PIL import Image

            with Image.open(grid) as picture:
                pixels = np.atleast_3d(np.asarray(picture))  # grey has no third dimension
            self._writer.add_image("samples", pixels, trainer.step, dataformats="HWC")

    def on_record(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def on_end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
