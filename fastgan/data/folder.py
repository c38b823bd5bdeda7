"""Images of one's own: a folder (with sub-folders), or a zip archive read in place.

sub-folders                   classes
train/ and test/ on top       splits
metadata.csv, .jsonl, .json   labels and captions (metadata.py)
source/ and target/           pairs, by the same path without its ending: the input and the wanted output of an
                              image-to-image model
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from fastgan._cache import cache_folder
from fastgan.data.cache import CacheFile
from fastgan.data.dataset import MAX_CACHE_BYTES, ImageDataset
from fastgan.data.decode import decode, header, pillow
from fastgan.data.files import EXTENSIONS, Folder, Zip, image_names, open_files
from fastgan.data.metadata import Metadata, read_metadata
from fastgan.data.resize import check_channels, check_image_size, resize_note

__all__ = ["ImageFiles", "PairedImages", "open_images", "seeded_subset"]

SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
SPLIT_WORDS = {word for words in SPLITS.values() for word in words}
PAIR = {"source", "target"}
PROBED = 64  # files whose headers decide between grey and RGB
CHUNK = 256  # images decoded between two looks at the clock
NAMED_IN_WARNING = 5


def open_images(
    path: str | os.PathLike,
    *,
    image_size: int,
    channels: int | None = None,
    skip_broken: bool = False,
    size: int | None = None,
    split: str = "train",
    seed: int = 0,
    max_cache_bytes: int = MAX_CACHE_BYTES,
) -> ImageDataset:
    """The images in a folder or zip archive, laid out as the head of this file says.

    Args:
        path: folder or zip archive.
        image_size: height and width in pixels.
        channels: 1, 3 or 4; None: 1 where the images are grey, else 3.
        skip_broken: leave out images that cannot be read, with one warning, instead of refusing the set.
        size: a seeded random subset of at most so many images.
        split: where the folders at the top are ``train`` and ``test``, which of them.
        seed: of the subset.
        max_cache_bytes: decoded images of up to so many bytes are kept in memory, of a larger set in a file.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: no images there, an unreadable one, not a zip archive, an image without its partner, or a table that
            does not fit the images.
    """
    check_image_size(image_size)
    check_channels(channels)
    if split not in SPLITS:
        raise ValueError(f"split takes {' or '.join(map(repr, SPLITS))}, got {split!r}")
    pillow()
    files = open_files(path)
    everything = files.names()
    names = image_names(everything)
    if not names:
        raise ValueError(
            f"data {str(path)!r} holds no images: {len(everything)} files in the {files.kind}, none of them ending in "
            f"{' '.join(EXTENSIONS)}"
        )
    paths, note = _in_split(names, split)
    options = {"image_size": image_size, "channels": channels, "max_cache_bytes": max_cache_bytes}
    if {parts[0].lower() for parts in paths.values()} == PAIR and all(len(parts) > 1 for parts in paths.values()):
        if skip_broken:
            raise ValueError(f"data {files.title!r} holds pairs: skip_broken would part them; take broken pairs away")
        sources, targets = _pairs(paths, files.title)
        metadata = read_metadata(files, everything, targets) or Metadata()
        listings = [Listing(files, sources, note), Listing(files, targets, note, metadata)]
        source, target = (ImageFiles(listing.subset(size, seed), **options) for listing in listings)
        return PairedImages(source, target)
    names = list(paths)
    metadata = read_metadata(files, everything, names) or Metadata()
    if metadata.labels is None:
        metadata = replace(metadata, **_classes(paths))
    return ImageFiles(Listing(files, names, note, metadata).subset(size, seed), skip_broken=skip_broken, **options)


def seeded_subset(count: int, size: int | None, seed: int) -> list[int] | None:
    """Sorted indices of a random subset of ``size`` of ``count``; None where that is all of them."""
    if size is None or size >= count:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:size].sort().values.tolist()


# -- what lies where ---------------------------------------------------------------------------------------------------


@dataclass
class Listing:
    """Some images of a folder or archive, and what is known of each."""

    files: Folder | Zip
    names: list[str]
    note: str = ""
    metadata: Metadata = Metadata()

    def take(self, rows: Sequence[int]) -> Listing:
        m = self.metadata
        labels = m.labels[list(rows)] if m.labels is not None else None
        captions = [m.captions[row] for row in rows] if m.captions is not None else None
        return replace(
            self,
            names=[self.names[row] for row in rows],
            metadata=replace(m, labels=labels, captions=captions),
        )

    def subset(self, size: int | None, seed: int) -> Listing:
        rows = seeded_subset(len(self.names), size, seed)
        return self if rows is None else self.take(rows)


def _in_split(names: list[str], split: str) -> tuple[dict[str, tuple[str, ...]], str]:
    """The path of each file of the split below what all share and below the split, and a note on what was chosen."""
    paths = {name: PurePosixPath(name).parts for name in names}
    while min(map(len, paths.values())) > 2 and len(first := {parts[0].lower() for parts in paths.values()}) == 1:
        if first <= SPLIT_WORDS:
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    first = {parts[0].lower() for parts in paths.values()}
    if not first <= SPLIT_WORDS:
        return paths, ""
    in_split = {name: parts[1:] for name, parts in paths.items() if parts[0].lower() in SPLITS[split]}
    if not in_split:
        raise ValueError(f"split {split!r} is not in the data: its folders are {sorted(first)}")
    return in_split, f"split {split}"


def _classes(paths: dict[str, tuple[str, ...]]) -> dict:
    """Labels and classes by the first folder. A single folder, or files beside the folders, make no classes."""
    folders = [parts[0] for parts in paths.values()]
    classes = sorted(set(folders))
    if len(classes) == 1 or any(len(parts) < 2 for parts in paths.values()):
        return {}
    return {"labels": torch.tensor([classes.index(folder) for folder in folders]), "classes": classes}


def _pairs(paths: dict[str, tuple[str, ...]], title: str) -> tuple[list[str], list[str]]:
    """Names of the sources and of their targets, in one order."""
    sides: dict[str, dict[PurePosixPath, str]] = {side: {} for side in sorted(PAIR)}
    for name, parts in paths.items():
        side, stem = sides[parts[0].lower()], PurePosixPath(*parts[1:]).with_suffix("")
        if stem in side:
            raise ValueError(f"pairs of data {title!r}: {name!r} and {side[stem]!r} differ only in their ending")
        side[stem] = name
    sources, targets = sides["source"], sides["target"]
    if alone := sorted(sources.keys() ^ targets.keys()):
        name = sources.get(alone[0]) or targets[alone[0]]
        raise ValueError(
            f"pairs of data {title!r}: {name!r} has no partner of that name in "
            f"{'target' if alone[0] in sources else 'source'}/ ({len(alone)} images have none)"
        )
    return list(sources.values()), [targets[stem] for stem in sources]


# -- the data sets -----------------------------------------------------------------------------------------------------


class ImageFiles(ImageDataset):
    """Images in files, decoded once when the set is opened: into memory where they fit ``max_cache_bytes``, else into a
    file (cache.py), and at every use where no disk has room for that.

    An unreadable image is refused by name, or with ``skip_broken`` left out: one warning counts them and names the
    first. Without any cache it is met on first use; what is skipped there, the next readable one stands in for.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        image_size: int,
        channels: int | None = None,
        skip_broken: bool = False,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self._files = listing.files
        self._listing = listing
        self._skip_broken = skip_broken
        self._total = len(listing.names)
        self.skipped: list[tuple[str, str]] = []  # (file, reason)
        probed_channels, native = self._probe()
        files = listing.files
        super().__init__(
            files.title,
            len(listing.names),
            image_size=image_size,
            channels=channels or probed_channels,
            origin=", ".join(
                filter(None, [resize_note(native, image_size), listing.note, f"{files.kind} {files.path}"])
            ),
            max_cache_bytes=max_cache_bytes,
        )
        self._annotate()
        self._fill()

    def _annotate(self) -> None:
        m = self._listing.metadata
        self._count = len(self._listing.names)
        self.labels = m.labels
        self.classes = tuple(m.classes) if m.classes is not None else None
        self.captions = m.captions

    def _probe(self) -> tuple[int, str]:
        """Channels (1 or 3) and native sizes, from the headers of files spread over the set."""
        names = self._listing.names
        all_grey, sides = True, []
        for i in np.unique(np.linspace(0, len(names) - 1, min(PROBED, len(names))).astype(int)):
            try:
                with self._files.open(names[i]) as file:
                    grey, size = header(file)
            except Exception:  # decoding counts and reports it
                continue
            all_grey &= grey
            sides.append(size)
        if not sides:
            return 3, "unknown size"
        smallest, largest = min(min(s) for s in sides), max(max(s) for s in sides)
        return (1 if all_grey else 3), f"{smallest}" if smallest == largest else f"{smallest}..{largest}"

    # -- reading -------------------------------------------------------------------------------------------------------
    def _read(self, index: int) -> torch.Tensor | str:
        """Image (C, H, W) uint8, or why it cannot be read."""
        try:
            with self._files.open(self._listing.names[index]) as file:
                return decode(file, self.image_size, self.channels)
        except Exception as error:  # whatever a stranger's file makes the decoder raise
            if type(error).__name__ == "UnidentifiedImageError":  # whose own words are about a Python object
                return "it is no image of a kind that Pillow knows"
            return str(error).split("\n")[0] or type(error).__name__

    def _read_many(self, indices: list[int]) -> list[torch.Tensor | str]:
        if len(indices) < 8:
            return [self._read(i) for i in indices]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoders release the interpreter lock
            return list(pool.map(self._read, indices))

    def _refuse(self, index: int, reason: str) -> None:
        name = self._listing.names[index]
        if not self._skip_broken:
            raise ValueError(
                f"image {name!r} of {self.name!r} cannot be read: {reason}; take it away, or leave such images "
                "out with skip_broken"
            )
        if name not in dict(self.skipped):
            self.skipped.append((name, reason))

    # -- once, when the set is opened ----------------------------------------------------------------------------------
    def _fill(self) -> None:
        """Decode everything into the cache there is room for; drop what cannot be read, and say so once."""
        if len(self._cache) == self._total:
            readable = np.zeros(self._total, bool)
            rows = 0
            for index, image in enumerate(self._decode_all()):
                if image is not None:
                    self._cache[rows] = image
                    readable[index] = True
                    rows += 1
            self._cache = self._cache[:rows]
        elif (folder := cache_folder()) is None:
            return  # decoded at every use, as FASTGAN_CACHE= asks for
        else:
            file = self._cache_file(folder)
            try:
                self._cache, readable = file.open(self._decode_all)
            except OSError as error:
                self.skipped.clear()
                warnings.warn(
                    f"{self.name}: decoded images cannot be kept in {file.path.parent} ({error.strerror or error}) and "
                    "are decoded at every use, which is slower; make room there or set FASTGAN_CACHE to another folder",
                    stacklevel=4,
                )
                return
            self._mapped = file
        self._filled = np.ones(len(self._cache), bool)
        self._drop(np.flatnonzero(~readable).tolist())

    def _cache_file(self, folder: Path) -> CacheFile:
        names, shape = self._listing.names, (self.channels, self.image_size, self.image_size)
        place = [str(self._files.path.resolve()), self._listing.note, len(names), names[0], shape, self._skip_broken]
        content = [[name, *self._files.stamp(name)] for name in names]
        return CacheFile(folder, self.name, place, content, shape, len(names))

    def _decode_all(self) -> Iterator[np.ndarray | None]:
        """Every image in order, None for a skipped one; a line now and then where it takes long."""
        said = started = time.monotonic()
        for start in range(0, self._total, CHUNK):
            chunk = list(range(start, min(start + CHUNK, self._total)))
            for index, result in zip(chunk, self._read_many(chunk), strict=True):
                if isinstance(result, str):
                    self._refuse(index, result)
                    yield None
                else:
                    yield result.numpy()
            if time.monotonic() - said > 5:
                said = time.monotonic()
                print(
                    f"{self.name}: decoded {chunk[-1] + 1} of {self._total} images in {said - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        if len(self.skipped) == self._total:
            name, reason = self.skipped[0]
            raise ValueError(
                f"none of the {self._total} images of {self.name!r} can be read; the first, {name!r}: {reason}"
            )

    def _drop(self, unreadable: list[int]) -> None:
        if not unreadable:
            return
        if not self.skipped:  # the cache was written by another run, which said so too
            self.skipped = [(self._listing.names[i], str(self._read(i))) for i in unreadable]
        shown = ", ".join(f"{name} ({reason})" for name, reason in self.skipped[:NAMED_IN_WARNING])
        more = ", ..." if len(self.skipped) > NAMED_IN_WARNING else ""
        warnings.warn(
            f"{self.name}: skipped {len(self.skipped)} of {self._total} images that cannot be read: {shown}{more}",
            stacklevel=5,
        )
        self._listing = self._listing.take(sorted(set(range(self._total)) - set(unreadable)))
        self._annotate()

    # -- at every use, where there is no cache -------------------------------------------------------------------------
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
                f"{self.name}: skipped image {self._listing.names[index]!r}, which cannot be read ({reason}): the next "
                "readable one takes its place; further ones are counted in describe()",
                stacklevel=2,
            )
        for step in range(1, self._count):
            at = (index + step) % self._count
            result = self._read(at)
            if not isinstance(result, str):
                if self.labels is not None:
                    self.labels[index] = self.labels[at]
                if self.captions is not None:
                    self.captions[index] = self.captions[at]
                return result
            self._refuse(at, result)
        raise ValueError(f"none of the {self._total} images of {self.name!r} can be read")

    def describe(self) -> str:
        skipped = f", {len(self.skipped)} unreadable skipped" if self.skipped else ""
        return super().describe() + skipped


class PairedImages(ImageDataset):
    """``source`` and ``target`` image by image: a batch's ``source`` and ``image``."""

    def __init__(self, source: ImageFiles, target: ImageFiles) -> None:
        self._source, self._target = source, target
        super().__init__(
            target.name,
            len(target),
            image_size=target.image_size,
            channels=target.channels,
            labels=target.labels,
            classes=target.classes,
            captions=target.captions,
            origin=f"paired with sources of {source.channels} channels, {target.origin}",
            max_cache_bytes=0,  # the two keep their own
        )

    def _decode(self, indices: list[int]) -> torch.Tensor:
        return self._target.batch(indices)["image"]

    def batch(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        return super().batch(indices) | {"source": self._source.batch(indices)["image"]}
