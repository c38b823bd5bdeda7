"""Labels and captions from a table beside the images: metadata.csv, metadata.jsonl or metadata.json.

One row an image: ``file_name`` (relative to the table's folder), and ``label``, ``caption`` or both (``text`` is read
as ``caption``, so that folders made for Hugging Face's ``imagefolder`` are read as they are). A label is a class index
from 0, or a class name; empty or -1: unlabelled. JSON takes a list of such rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch

from fastgan.data.files import Folder, Zip

__all__ = ["Metadata", "read_metadata"]

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.json")
UNLABELLED = -1


@dataclass(frozen=True)
class Metadata:
    """What tables say of some images, in their order; None where no row says it."""

    labels: torch.Tensor | None = None  # (N,) int64, -1: unlabelled
    classes: list[str] | None = None
    captions: list[str] | None = None


def read_metadata(files: Folder | Zip, everything: list[str], images: list[str]) -> Metadata | None:
    """What the tables among the files ``everything`` say of ``images``; None where there is no table.

    Raises:
        ValueError: a table that cannot be read, names an image that is not there, or leaves one of ``images`` out.
    """
    tables = [name for name in everything if PurePosixPath(name).name in TABLES]
    if not tables:
        return None
    rows: dict[str, dict[str, Any]] = {}
    known = set(everything)
    for table in tables:
        for number, row in enumerate(_rows(files, table), 1):
            image = _image_of(row, table, number)
            if image not in known:
                raise ValueError(f"{table} of data {files.title!r} names the image {image!r}, which is not there")
            if image in rows:
                raise ValueError(f"{table} of data {files.title!r} names the image {image!r} twice; it takes one row")
            rows[image] = row
    if missing := [name for name in images if name not in rows]:
        raise ValueError(
            f"{len(missing)} of the {len(images)} images of data {files.title!r} are in no row of {tables[0]}, "
            f"{missing[0]!r} first: add a row (an empty label means unlabelled), or take the images away"
        )
    rows = {name: rows[name] for name in images}
    labels, classes = _labels(rows, tables[0])
    captions = _captions(rows, tables[0])
    if labels is None and captions is None:
        raise ValueError(f"{tables[0]} of data {files.title!r} has neither a column 'label' nor 'caption'")
    return Metadata(labels, classes, captions)


def _rows(files: Folder | Zip, table: str) -> Iterator[dict[str, Any]]:
    with files.open(table) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
        if table.endswith(".csv"):
            yield from csv.DictReader(io.StringIO(text), strict=True)
        elif table.endswith(".jsonl"):
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
        else:
            listed = json.loads(text)
            if not isinstance(listed, list):
                raise ValueError("it takes a list of rows")
            yield from listed
    except (ValueError, csv.Error) as error:  # wrong encoding and wrong JSON are ValueErrors
        raise ValueError(f"{table} of data {files.title!r} cannot be read: {error}") from None


def _image_of(row: Any, table: str, number: int) -> str:
    name = row.get("file_name") if isinstance(row, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"row {number} of {table} has no file_name: a row takes file_name, and label or caption")
    parts: list[str] = []
    for part in (PurePosixPath(table).parent / name.replace("\\", "/")).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def _labels(rows: dict[str, dict], table: str) -> tuple[torch.Tensor | None, list[str] | None]:
    """Class indices and the classes' names; numbers are indices as they are, words are numbered by the alphabet."""
    given = {name: _label(row.get("label"), name, table) for name, row in rows.items()}
    present = [label for label in given.values() if label is not None]
    if not present:
        return None, None
    if all(isinstance(label, int) for label in present):
        classes = [str(i) for i in range(max(present) + 1)]
        numbers = [UNLABELLED if label is None else label for label in given.values()]
        return torch.tensor(numbers), classes
    classes = sorted({str(label) for label in present})
    position = {name: i for i, name in enumerate(classes)}
    return torch.tensor([UNLABELLED if label is None else position[str(label)] for label in given.values()]), classes


def _label(value: Any, image: str, table: str) -> int | str | None:
    """A class index, a class name, or None: unlabelled."""
    if value is None or value == "":
        return None
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number // 1 or number < UNLABELLED:
        raise ValueError(
            f"{table} gives {image!r} the label {value!r}; it takes a class index from 0, a class name, or nothing"
        )
    return None if number == UNLABELLED else int(number)


def _captions(rows: dict[str, dict], table: str) -> list[str] | None:
    captions = {name: row.get("caption", row.get("text")) for name, row in rows.items()}
    if all(caption is None for caption in captions.values()):
        return None
    for name, caption in captions.items():
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{table} gives {name!r} the caption {caption!r}; it takes one sentence for every image")
    return list(captions.values())
