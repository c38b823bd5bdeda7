"""A run on disk: what lies where, and what happens to it when a run begins, goes on, or meets somebody else's.

config.json                    architecture, data, trainer options, environment
metrics.jsonl                  one JSON object a line
evaluation.jsonl               the same, of `fastgan evaluate`
samples/step_000500.png
checkpoints/last.safetensors   everything needed to go on;  previous.safetensors: the one before it
checkpoints/best.safetensors   networks and averages at the metric's best value
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fastgan.training.checkpoint import (
    CheckpointError,
    CorruptCheckpointError,
    read_checkpoint,
    write_atomically,
    write_checkpoint,
)

__all__ = ["EVALUATIONS", "RunFolder", "flatten", "read_records"]

log = logging.getLogger("fastgan")

EVALUATIONS = "evaluation.jsonl"

# Options that may change between two parts of a run: they alter neither what it learns nor its records up to there.
MAY_CHANGE = (
    "architecture.class",  # the name tells; a class without one moves between modules
    "data.description",  # holds paths
    "data.seed",  # with "spec", how it was opened; what came of it is compared
    "data.spec",
    "trainer.checkpoint_every",
    "trainer.cuda_graph",
    "trainer.device",
    "trainer.num_workers",
    "trainer.steps",
)


def _is_remedy(name: str) -> bool:
    """Options by which a run that diverged is led past that point: they may change where resume="must" says so."""
    option = name.rpartition(".")[2]
    return name == "trainer.precision" or (name.startswith("architecture.config.") and "lr" in option.split("_"))


class RunFolder:
    """Owner of a run's files. Locked while open, so that two processes cannot write one run (POSIX)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self._lock: IO[str] | None = None

    def checkpoint(self, which: str) -> Path:
        return self.checkpoints / f"{which}.safetensors"

    def sample(self, step: int) -> Path:
        """The sample grid drawn after this step."""
        return self.samples / f"step_{step:06d}.png"

    # -- opening and closing -------------------------------------------------------------------------------------------
    def open(self, config: dict[str, Any], resume: str) -> dict[str, Any] | None:
        """Lock the folder (made if need be); the state to go on from, or None for a fresh run. ``begin`` follows.

        ``resume``: "auto" goes on from a checkpoint where there is one, "must" demands one and lets learning rates and
        precision change, "never" demands none.

        Raises
        ------
        CheckpointError
            The folder is in use, cannot be written, holds a run with other options, or no readable checkpoint.
        """
        self._make_and_lock()
        try:
            state = self._find_state(resume)
            recorded = state["config"] if state else self._read_config()
            if recorded is not None:
                self._compare(recorded, config, resume)
        except BaseException:
            self.close()
            raise
        return state

    def begin(self, config: Mapping[str, Any], step: int) -> None:
        """Record the options and forget what lies behind ``step``, once nothing can be refused any more."""
        text = json.dumps(config, indent=2) + "\n"
        write_atomically(self.config_file, lambda temporary: temporary.write_text(text))
        self.cut(step)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _make_and_lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise CheckpointError(
                f"cannot write the run folder {self.path}: {error.strerror}; choose another"
            ) from error
        try:
            import fcntl
        except ImportError:  # not POSIX: no lock
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CheckpointError(
                f"another process is training in {self.path}: wait for it or choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks

    def _find_state(self, resume: str) -> dict[str, Any] | None:
        files = [file for which in ("last", "previous") if (file := self.checkpoint(which)).is_file()]
        if resume == "never" and (files or self.config_file.exists()):
            raise CheckpointError(
                f"{self.path} holds a run already: choose another folder, or resume='auto' to go on with it"
            )
        if not files:
            if resume == "must":
                raise CheckpointError(f"{self.path} holds no checkpoint to resume from")
            if self.metrics_file.exists() and not self.config_file.exists():
                raise CheckpointError(f"{self.metrics_file} is of no run of fastgan's: choose another run folder")
            return None
        damaged: list[tuple[Path, CorruptCheckpointError]] = []
        for file in files:
            try:
                state = read_checkpoint(file)
            except CorruptCheckpointError as error:
                damaged.append((file, error))
                continue
            for broken, error in damaged:  # set aside: the next rotation must not put it over the good one
                os.replace(broken, broken.with_suffix(".damaged"))
                log.warning("%s; going back to %s, step %d", error, file, state["step"])
            return state
        raise CheckpointError(
            f"no checkpoint in {self.checkpoints} can be read: {damaged[0][1]}; nothing was changed, begin anew in "
            "another folder"
        )

    # -- config --------------------------------------------------------------------------------------------------------
    def _read_config(self) -> dict[str, Any] | None:
        """What a run recorded that was killed before its first checkpoint."""
        try:
            return json.loads(self.config_file.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CheckpointError(f"{self.config_file} is no JSON ({error}): choose another folder") from error

    def _compare(self, recorded: Mapping[str, Any], asked: Mapping[str, Any], resume: str) -> None:
        old, new = flatten(recorded), flatten(asked)
        environment = [
            f"{k.split('.', 1)[1]}: {old.get(k)} then, {v} now"
            for k, v in new.items()
            if k.startswith("env") and old.get(k) != v
        ]
        names = [k for k in {**old, **new} if k not in MAY_CHANGE and not k.startswith("environment.")]
        differences = {
            k: f"{k}: the run has {_show(old, k)}, asked {_show(new, k)}"
            for k in names
            if _show(old, k) != _show(new, k)
        }
        remedies = all(_is_remedy(k) for k in differences)
        if differences and remedies and resume == "must":
            log.warning("the run goes on with other options: %s", "; ".join(differences.values()))
        elif differences:
            ways = "ask for the same, " + ("take resume='must', which lets these change, " if remedies else "")
            raise CheckpointError(
                f"{self.path} was trained with other options; {ways}or choose another folder:\n"
                + "\n".join(f"  {difference}" for difference in differences.values())
            )
        if environment:
            log.warning(
                "the run goes on, but not bit for bit, since the environment changed: %s", "; ".join(environment)
            )

    # -- records -------------------------------------------------------------------------------------------------------
    def cut(self, step: int) -> None:
        """Forget what lies behind ``step``: records of metrics.jsonl (and a half-written line), and samples. Also what
        safetensors left of a checkpoint when it was killed: it writes under a new random name each time."""
        for file in self.checkpoints.glob(".tmp*"):
            file.unlink()
        if self.metrics_file.exists():
            lines = self.metrics_file.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= step]
            if kept != lines:
                write_atomically(self.metrics_file, lambda temporary: temporary.write_bytes(b"".join(kept)))
        for file in self.samples.glob("step_*.png"):
            match = re.fullmatch(r"step_(\d+)\.png", file.name)
            if match and int(match[1]) > step:
                file.unlink()

    def append(self, record: Mapping[str, Any], name: str = "metrics.jsonl") -> None:
        """Add one line to metrics.jsonl, or another file, out of Python's buffers: it survives the process."""
        path = self.path / name
        try:
            with open(path, "a") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}; the last checkpoint is kept") from error

    def save(self, which: str, state: Mapping[str, Any]) -> None:
        """Write checkpoint ``which``; of "last" the one before is kept as "previous"."""
        if (
            self.metrics_file.exists()
        ):  # records first: they must not be older than the checkpoint after a power failure
            with open(self.metrics_file, "rb+") as file:
                os.fsync(file.fileno())
        previous = self.checkpoint("previous") if which == "last" else None
        write_checkpoint(self.checkpoint(which), state, previous=previous)


def read_records(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a .jsonl file of a run, and how many of its lines are none; nothing where there is no file."""
    records, damaged = [], 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        else:
            damaged += 1
    return records, damaged


def _step_of(line: bytes) -> float:
    """The step of a record; infinite for a line that is none, which ``cut`` then drops."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _show(options: Mapping[str, Any], name: str) -> str:
    return json.dumps(options[name]) if name in options else "nothing"
