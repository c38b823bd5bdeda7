"""Images of one's own: a folder (with sub-folders), or a zip archive read in place."""

from __future__ import annotations

import io
import os
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from fastgan.data.dataset import MAX_CACHE_BYTES, ImageDataset
from fastgan.data.resize import check_channels, check_image_size, convert_channels, crop_and_resize, resize_note

__all__ = ["ImageFiles", "seeded_subset"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
# Up to this many files are decoded when the set is opened, so that unreadable ones are known before training begins.
DECODE_AT_OPEN = 4096
PROBED = 64  # files whose headers decide between grey and RGB
NAMED_IN_WARNING = 5


def seeded_subset(count: int, size: int | None, seed: int) -> list[int] | None:
    """Sorted indices of a random subset of ``size`` of ``count``; None where that is all of them."""
    if size is None or size >= count:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:size].sort().values.tolist()


def _pillow():
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("reading image files needs Pillow: pip install pillow") from None
    return Image, ImageOps


class _Folder:
    """Files under a directory, by relative path."""

    def __init__(self, path: Path) -> None:
        self.path = path

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


class _Zip:
    """Members of a zip archive; the handle is opened once in each process, reads take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

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

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.path = state["path"]
        self._open()


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(EXTENSIONS)


def _split_and_classes(names: list[str], split: str) -> tuple[list[str], list[str] | None, str]:
    """Files of the split, their class names (None: no classes), and a note on what was chosen.

    Leading folders that all files share are ignored. Where the first level is then train / test folders, one split is
    taken and the next level names the class. A single folder, or files beside the folders, make no classes.
    """
    split_words = {word for words in SPLITS.values() for word in words}
    paths = {name: PurePosixPath(name).parts for name in names}
    while min(map(len, paths.values())) > 2 and len(first := {parts[0].lower() for parts in paths.values()}) == 1:
        if first <= split_words:
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    note = ""
    first_level = {parts[0].lower() for parts in paths.values()}
    if first_level <= split_words:
        in_split = {name: parts[1:] for name, parts in paths.items() if parts[0].lower() in SPLITS[split]}
        if not in_split:
            raise ValueError(f"split {split!r} is not in the data: its folders are {sorted(first_level)}")
        paths, note = in_split, f"split {split}"
    if any(len(parts) < 2 for parts in paths.values()) or len({parts[0] for parts in paths.values()}) == 1:
        return list(paths), None, note
    return list(paths), [parts[0] for parts in paths.values()], note


class ImageFiles(ImageDataset):
    """The images under a folder or in a zip archive; a sub-folder is a class.

    Each image is turned upright (EXIF), cropped to its centre square and resized by antialiased bicubic. Transparency
    is composited over white unless ``channels=4``. Of a film or stack the first frame is taken.

    Unreadable images are left out, with one warning that counts them and names the first. A set of up to 4096 files is
    checked when opened; of a larger one an unreadable image is met on first use, where the next readable one takes its
    place.

    Args:
        path: folder or zip archive.
        image_size: height and width in pixels.
        channels: 1, 3 or 4; None: 1 where the images are grey, else 3.
        strict: an unreadable image is an error.
        size: a seeded random subset of at most so many files.
        split: where the folders at the top are ``train`` and ``test``, which of them.
        seed: of the subset.
        max_cache_bytes: bound of the decoded cache.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: no images there, none readable, not a zip archive, or, if strict, an unreadable image.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        image_size: int,
        channels: int | None = None,
        strict: bool = False,
        size: int | None = None,
        split: str = "train",
        seed: int = 0,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        check_image_size(image_size)
        check_channels(channels)
        if split not in SPLITS:
            raise ValueError(f"split takes {' or '.join(map(repr, SPLITS))}, got {split!r}")
        _pillow()
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"data {str(path)!r} does not exist: give a folder or a zip archive of images")
        self._source = _Folder(path) if path.is_dir() else _Zip(path)
        kind = "folder" if path.is_dir() else "zip archive"
        everything = self._source.names()
        names = sorted(name for name in everything if _is_image(name))
        if not names:
            raise ValueError(
                f"data {str(path)!r} holds no images: {len(everything)} files in the {kind}, none of them ending in "
                f"{' '.join(EXTENSIONS)}"
            )
        names, class_of, note = _split_and_classes(names, split)
        classes = sorted(set(class_of)) if class_of else None
        labels = torch.tensor([classes.index(c) for c in class_of]) if class_of else None
        if (kept := seeded_subset(len(names), size, seed)) is not None:
            names = [names[i] for i in kept]
            labels = labels[kept] if labels is not None else None
        self._names = names
        self._total = len(names)
        self._strict = strict
        self.skipped: list[tuple[str, str]] = []  # (file, reason)
        probed_channels, native = self._probe()
        super().__init__(
            path.stem if path.is_file() else path.resolve().name,
            len(names),
            image_size=image_size,
            channels=channels or probed_channels,
            labels=labels,
            classes=classes,
            origin=", ".join(filter(None, [resize_note(native, image_size), note, f"{kind} {path}"])),
            max_cache_bytes=max_cache_bytes,
        )
        if len(names) <= min(DECODE_AT_OPEN, len(self._cache)):
            self._decode_all()

    def _probe(self) -> tuple[int, str]:
        """Channels (1 or 3) and native sizes, from the headers of files spread over the set."""
        Image, _ = _pillow()
        grey, sides = True, []
        for i in np.unique(np.linspace(0, len(self._names) - 1, min(PROBED, len(self._names))).astype(int)):
            try:
                with self._source.open(self._names[i]) as file, Image.open(file) as image:
                    grey &= image.mode in ("1", "L", "LA", "F", "I") or image.mode.startswith("I;16")
                    sides.append(image.size)
            except Exception:  # decoding counts and reports it
                continue
        if not sides:
            return 3, "unknown size"
        smallest, largest = min(min(s) for s in sides), max(max(s) for s in sides)
        return (1 if grey else 3), f"{smallest}" if smallest == largest else f"{smallest}..{largest}"

    def _read(self, index: int) -> torch.Tensor | str:
        """Image (C, H, W) uint8, or why it cannot be read."""
        Image, ImageOps = _pillow()
        try:
            with self._source.open(self._names[index]) as file, Image.open(file) as image:
                # a JPEG decodes at 1/2, 1/4 or 1/8 scale for nothing; twice the target leaves the resize its work
                image.draft(None, (2 * self.image_size, 2 * self.image_size))
                image.load()
                pixels = _to_tensor(ImageOps.exif_transpose(image))
        except Exception as error:  # whatever a stranger's file makes the decoder raise
            return str(error).split("\n")[0] or type(error).__name__
        if self.channels != 4:
            pixels = convert_channels(pixels, self.channels)
        return convert_channels(crop_and_resize(pixels[None], self.image_size)[0], self.channels)

    def _read_many(self, indices: list[int]) -> list[torch.Tensor | str]:
        if len(indices) < 8:
            return [self._read(i) for i in indices]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoders release the interpreter lock
            return list(pool.map(self._read, indices))

    def _decode_all(self) -> None:
        """Fill the cache, drop what cannot be read, and say so once."""
        good = []
        for start in range(0, len(self._names), 256):
            chunk = list(range(start, min(start + 256, len(self._names))))
            for index, result in zip(chunk, self._read_many(chunk), strict=True):
                if isinstance(result, str):
                    self._refuse(index, result)
                else:
                    self._cache[len(good)] = result.numpy()
                    good.append(index)
        if not good:
            name, reason = self.skipped[0]
            raise ValueError(
                f"none of the {self._total} images of {self.name!r} can be read; the first, {name!r}: {reason}"
            )
        if self.skipped:
            shown = ", ".join(f"{name} ({reason})" for name, reason in self.skipped[:NAMED_IN_WARNING])
            more = ", ..." if len(self.skipped) > NAMED_IN_WARNING else ""
            warnings.warn(
                f"{self.name}: skipped {len(self.skipped)} of {self._total} images that cannot be read: {shown}{more}",
                stacklevel=2,
            )
        self._names = [self._names[i] for i in good]
        self._count = len(good)
        self.labels = self.labels[good] if self.labels is not None else None
        self._cache = self._cache[: len(good)]
        self._filled = np.ones(len(good), bool)

    def _refuse(self, index: int, reason: str) -> None:
        name = self._names[index]
        if self._strict:
            raise ValueError(f"strict: image {name!r} of {self.name!r} cannot be read: {reason}")
        if name not in dict(self.skipped):
            self.skipped.append((name, reason))

    def _decode(self, indices: list[int]) -> torch.Tensor:
        results = self._read_many(indices)
        for at, index in enumerate(indices):
            if isinstance(results[at], str):
                results[at] = self._replacement(index, results[at])
        return torch.stack(results)

    def _replacement(self, index: int, reason: str) -> torch.Tensor:
        """The next readable image after an unreadable one: the same in every run, so that a resumed run sees it too."""
        first = not self.skipped
        self._refuse(index, reason)
        if first:
            warnings.warn(
                f"{self.name}: skipped image {self._names[index]!r}, which cannot be read ({reason}): the next "
                "readable one takes its place; further ones are counted in describe()",
                stacklevel=2,
            )
        for step in range(1, len(self._names)):
            at = (index + step) % len(self._names)
            result = self._read(at)
            if not isinstance(result, str):
                if self.labels is not None:
                    self.labels[index] = self.labels[at]
                return result
            self._refuse(at, result)
        raise ValueError(f"none of the {self._total} images of {self.name!r} can be read")

    def describe(self) -> str:
        skipped = f", {len(self.skipped)} unreadable skipped" if self.skipped else ""
        return super().describe() + skipped


def _to_tensor(image) -> torch.Tensor:
    """A Pillow image of any mode as (1, 3 or 4, H, W) uint8."""
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image).astype(np.int64)  # 16 bits: convert("L") would clip, not scale
        grey = deep >> 8 if deep.max(initial=0) > 255 else deep
        return torch.from_numpy(grey.clip(0, 255).astype(np.uint8))[None]
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L", "F"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
