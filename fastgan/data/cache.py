"""Decoded images in a file: for sets that do not fit in memory, decoded once and then mapped by every later run.

One file a data set and image size, in the folder of fastgan/_cache.py; it may be deleted at any time. Layout: the
readable images (C, H, W) uint8 one after the other, then one byte a file of the data set, 1 where it was readable. The
name ends in a digest of what the images depend on (every file's name, size and time, the
options, ``FORMAT``): data that changed is decoded anew, and the file of before is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["CacheFile"]

FORMAT = 1  # raised whenever decoding gives other bytes


class CacheFile:
    """The cache of one data set.

    Args:
        folder: where it is kept, made where it is missing.
        title: of the data set, for people who look into the folder.
        place: what tells this data set and its options from others: a file of the same place is replaced.
        content: what tells its present state from others.
        shape: of one image, (C, H, W).
        count: files of the data set, readable or not.
    """

    def __init__(
        self, folder: Path, title: str, place: Any, content: Any, shape: tuple[int, int, int], count: int
    ) -> None:
        self.shape, self.count = shape, count
        title = re.sub(r"[^\w-]+", "_", title)[:40]
        self._stem = f"{title}-{_digest([FORMAT, place])}"
        self.path = folder / f"{self._stem}-{_digest(content)}.images"

    def open(self, decoded: Callable[[], Iterable[np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray]:
        """Images (readable, C, H, W) uint8, mapped and not writable, and which files they are of, (count,) bool.

        Where there is no file yet it is written from ``decoded()``: an image for each file, None for an unreadable one.
        A second process waits for the first. Written whole or not at all.

        Raises:
            OSError: the folder cannot be written, or the disk is full. Nothing half-written stays behind.
        """
        if (found := self.read()) is not None:
            return found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if (found := self.read()) is not None:
                return found
            for left in self.path.parent.glob(f"{self._stem}-*"):  # of older content, or of a writer that was killed
                if left.suffix != ".lock":
                    with contextlib.suppress(OSError):
                        left.unlink()
            self._write(decoded())
        return self.read()

    def read(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What ``open`` returns; None where there is no whole file."""
        row = int(np.prod(self.shape))
        try:
            size = os.path.getsize(self.path)
        except OSError:
            return None
        rows, rest = divmod(size - self.count, row)
        if rest or rows < 1:
            return None
        readable = np.fromfile(self.path, np.uint8, self.count, offset=rows * row).astype(bool)
        if readable.sum() != rows:
            return None
        return np.memmap(self.path, np.uint8, "r", shape=(rows, *self.shape)), readable

    def _write(self, images: Iterable[np.ndarray | None]) -> None:
        # By write(), not through the map: on a full disk that is an error, while a map would kill the process.
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                readable = bytearray()
                for image in images:
                    readable.append(image is not None)
                    if image is not None:
                        file.write(np.ascontiguousarray(image).data)
                file.write(readable)
                _flush(file)
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # not POSIX: two processes may decode the same; the later one replaces the file
            yield
            return
        with open(self.path.parent / f"{self._stem}-.lock", "a") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _flush(file: BinaryIO) -> None:
    """To the disk, before a rename makes it visible: a power failure must not leave a whole file of zeros."""
    file.flush()
    os.fsync(file.fileno())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
