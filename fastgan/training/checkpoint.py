"""Checkpoints: a nested state as one safetensors file, written whole or not at all, read without running any code.

A state is a tree of dicts, lists, tuples, numbers, strings, None and tensors. Tensors become entries of the file, named
by their path ("model.generator.0.weight"); the rest is JSON in the file's metadata. One file is one atomic unit:
tensors and JSON cannot disagree after a crash. A checksum over all tensors finds what safetensors does not (flipped
bits, zeroed blocks).
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fastgan.architectures.base import Architecture

__all__ = [
    "CheckpointError",
    "CorruptCheckpointError",
    "load_networks",
    "load_run",
    "load_state",
    "read_checkpoint",
    "read_run",
    "write_atomically",
    "write_checkpoint",
]

FORMAT = 1
_KEY = "fastgan"  # one key only: safetensors orders several at random


class CheckpointError(RuntimeError):
    """A run folder or checkpoint cannot be read, written or used; the message is one sentence for the user."""


class CorruptCheckpointError(CheckpointError):
    """The file is truncated, damaged or no checkpoint of fastgan; another one may be good."""


# -- files -------------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[Path], None], *, previous: Path | None = None) -> None:
    """Call ``write(temporary)`` in the folder of ``path``, flush to disk, then rename onto ``path``.

    Killed at any moment, ``path`` holds its old or its new content. With ``previous``, the old content is kept there;
    killed between the two renames, it is there alone.

    Raises
    ------
    CheckpointError
        The folder cannot be written or the disk is full. What was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:  # safetensors and Pillow have exceptions of their own for a full disk
        _remove_quietly(temporary)
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"cannot write {path}: {reason}; make room there or choose another run folder. Earlier files are kept."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system lets folders be opened (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error being reported is the one that matters
        path.unlink(missing_ok=True)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from error
    return safetensors


def write_checkpoint(path: Path, state: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write a state (see the module's header) atomically; ``previous``: where the file's present content is kept."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(state, "", tensors)
    header = json.dumps({"format": FORMAT, "checksum": _checksum(tensors), "state": tree})
    save_file = _safetensors().torch.save_file
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={_KEY: header}), previous=previous)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a file that ``write_checkpoint`` wrote, tensors on the CPU.

    Raises
    ------
    CorruptCheckpointError
        The file is truncated, damaged, or was not written by fastgan.
    CheckpointError
        There is no such file, or a newer fastgan wrote it.
    """
    safetensors = _safetensors()
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CorruptCheckpointError(f"{path} is truncated or damaged, or no safetensors file ({error})") from error
    if header is None:
        raise CorruptCheckpointError(f"{path} was not written by fastgan: its metadata has no {_KEY!r} entry")
    try:
        content = json.loads(header)
        if content["format"] > FORMAT:
            raise CheckpointError(f"{path} was written by a newer fastgan (format {content['format']}): update fastgan")
        if content["checksum"] != _checksum(tensors):
            raise CorruptCheckpointError(f"{path} is damaged: its tensors do not match their checksum")
        return _unpack(content["state"], tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpointError(f"{path} is damaged: its description cannot be read ({error!r})") from error


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum


# -- trees -------------------------------------------------------------------------------------------------------------


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` as JSON; its tensors are copied to the CPU into ``tensors`` under their paths.

    What JSON does not know is tagged: {"$tensor": name}, {"$tuple": [...]}, {"$items": [[key, value], ...]}.
    """
    if isinstance(value, torch.Tensor):
        while name in tensors:  # "a.b" inside x, and "b" inside "a" inside x
            name += "'"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()  # a copy: safetensors takes no shared storage
        return {"$tensor": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(item, f"{name}.{key}" if name else key, tensors) for key, item in value.items()}
        return {"$items": [[_pack(k, "", {}), _pack(item, f"{name}.{k}", tensors)] for k, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise CheckpointError(
        f"cannot save {name}: it is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, None, "
        "lists, tuples and dicts"
    )


def _unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$tuple" in tree:
        return tuple(_unpack(item, tensors) for item in tree["$tuple"])
    if "$items" in tree:
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in tree["$items"]}
    return {key: _unpack(item, tensors) for key, item in tree.items()}


# -- into an architecture ----------------------------------------------------------------------------------------------


def load_networks(
    architecture: Architecture, tensors: Mapping[str, torch.Tensor], where: str | Path, *, partial: bool = False
) -> None:
    """Load a state dict after comparing every name and shape, so that a wrong one changes nothing.

    ``partial``: the tensors may be some of the architecture's (an average of its generators).

    Raises
    ------
    CheckpointError
        The tensors are another model's; the message names the first that differs and counts the rest.
    """
    own = architecture.state_dict()
    problems = [] if partial else [f"lacks {name!r}" for name in own if name not in tensors]
    for name, tensor in tensors.items():
        if name not in own:
            problems.append(f"has {name!r}, which the architecture lacks")
        elif isinstance(tensor, torch.Tensor) and tensor.shape != own[name].shape:
            problems.append(f"has {name!r} of shape {tuple(tensor.shape)}, the architecture {tuple(own[name].shape)}")
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise CheckpointError(f"{where} holds another model than {type(architecture).__name__}: it {problems[0]}{more}")
    architecture.load_state_dict(tensors, strict=not partial)


def load_run(
    path: str | Path, which: str = "best", *, ema: bool = True, architecture: Architecture | None = None
) -> Architecture:
    """The trained architecture of a run, in eval mode, on the CPU.

    Parameters
    ----------
    path
        A run folder, or one checkpoint file.
    which
        ``"best"`` by the run's metric (the last, where the run measured none) or ``"last"``; for a folder.
    ema
        Load the averaged generators instead of the last step's.
    architecture
        Load into this one; by default it is created by the name and options that the run recorded.

    Raises
    ------
    CheckpointError
        Nothing there, damaged, or of another model.
    """
    return load_state(*read_run(path, which), ema=ema, architecture=architecture)


def load_state(
    state: Mapping[str, Any], file: Path, *, ema: bool = True, architecture: Architecture | None = None
) -> Architecture:
    """The trained architecture in what ``read_run`` returned; arguments and errors as ``load_run``."""
    recorded = state["config"]["architecture"]
    if architecture is None:
        architecture = _create(recorded, file)
    load_networks(architecture, state["model"], file)
    if ema:
        load_networks(architecture, state["ema"]["tensors"], file, partial=True)
    return architecture.eval()


def read_run(path: str | Path, which: str = "best") -> tuple[dict[str, Any], Path]:
    """The first readable of a folder's checkpoints, in the order asked for, or the one file: its state, and where."""
    if which not in ("best", "last"):
        raise ValueError(f"which is {which!r}; it takes 'best' or 'last'")
    path = Path(path)
    if path.is_dir():
        names = ("best", "last", "previous") if which == "best" else ("last", "previous")
        files = [file for name in names if (file := path / "checkpoints" / f"{name}.safetensors").is_file()]
        if not files:
            raise CheckpointError(f"{path} holds no checkpoint: train with out={str(path)!r} first")
    else:
        files = [path]
    for file in files:
        try:
            return read_checkpoint(file), file
        except CorruptCheckpointError:
            if file == files[-1]:
                raise
    raise AssertionError("unreachable: files is never empty")


def _create(recorded: Mapping[str, Any], file: Path) -> Architecture:
    from fastgan import registry

    if not recorded["name"]:
        raise CheckpointError(
            f"{file} holds {recorded['class']}, which has no name: register it with @fastgan.register('...') before "
            "training, or pass load_run(..., architecture=...)"
        )
    try:
        return registry.create(recorded["name"], **recorded["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} holds the architecture {recorded['name']!r}: {error}") from error
