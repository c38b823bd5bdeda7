"""Where files lie: a folder with its sub-folders, or a zip archive read in place."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["Folder", "Zip", "image_names", "open_files"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


class Folder:
    """Files under a directory, by relative path."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def title(self) -> str:
        return self.path.resolve().name

    def names(self) -> list[str]:
        found, seen = [], set()
        for root, folders, files in os.walk(self.path, followlinks=True):
            if (place := os.path.realpath(root)) in seen:  # a link that leads back up
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            relative = Path(root).relative_to(self.path)
            found += [(relative / file).as_posix() for file in files]
        return found

    def open(self, name: str) -> io.BufferedIOBase:
        return open(self.path / name, "rb")

    def stamp(self, name: str) -> tuple[int, int]:
        """What changes when the file does: size and time of modification."""
        status = os.stat(self.path / name)
        return status.st_size, status.st_mtime_ns


class Zip:
    """Members of a zip archive; the handle is opened once in each process, reads take turns."""

    kind = "zip archive"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    @property
    def title(self) -> str:
        return self.path.stem

    def _open(self) -> None:
        try:
            self._archive, self._pid = zipfile.ZipFile(self.path), os.getpid()
        except zipfile.BadZipFile as error:
            raise ValueError(f"data {str(self.path)!r} is not a readable zip archive: {error}") from None
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return [info.filename for info in self._archive.infolist() if not info.is_dir()]

    def open(self, name: str) -> io.BytesIO:
        if self._pid != os.getpid():  # a forked worker must not share the parent's file position
            self._open()
        with self._lock:
            return io.BytesIO(self._archive.read(name))

    def stamp(self, name: str) -> tuple[int, int]:
        """What changes when the member does: size and checksum."""
        info = self._archive.getinfo(name)
        return info.file_size, info.CRC

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.path = state["path"]
        self._open()


def open_files(path: str | os.PathLike) -> Folder | Zip:
    """The folder or zip archive at ``path``.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is no zip archive.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"data {str(path)!r} does not exist: give a folder or a zip archive of images")
    return Folder(path) if path.is_dir() else Zip(path)


def image_names(names: list[str]) -> list[str]:
    """Those that are images by their ending, sorted; hidden ones and what macOS puts beside files are left out."""

    def is_image(name: str) -> bool:
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
        return not hidden and name.lower().endswith(EXTENSIONS)

    return sorted(filter(is_image, names))
