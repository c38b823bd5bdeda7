"""Kills training processes at chosen and at random moments, and goes on with them: the program behind test_resume.py.

Started once as `python crash.py ROOT NAME...`: for every architecture an uninterrupted run in ROOT/NAME/whole, then runs
that are killed by SIGKILL and resumed. Runs are forked from this process, which has imported torch and computed nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import stubs

STEPS = 13


def forked(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork and return the process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(name: str, out: Path) -> None:
    """Train to the end; a failure ends the whole program."""
    status = os.waitpid(forked(lambda: train(name, out)), 0)[1]
    if status:
        sys.exit(f"{name} in {out}: training failed with status {status}")


def train(name: str, out: Path) -> None:
    torch.set_num_threads(1)
    stubs.build(name, str(out), STEPS).fit()


def train_and_die(name: str, out: Path, event: int) -> None:
    """Train; die by SIGKILL just before the ``event``-th change of anything on disk. Exits normally if there are fewer."""
    from fastgan.training.run_folder import RunFolder

    count = 0

    def dying(change: Callable, *, half: bool = False) -> Callable:
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count == event:
                if half:
                    with open(args[0].metrics_file, "a") as file:
                        file.write('{"step": 1, "sta')
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return wrapper

    os.replace, os.fsync = dying(os.replace), dying(os.fsync)
    RunFolder.append = dying(RunFolder.append, half=True)
    Path.unlink, Path.mkdir = dying(Path.unlink), dying(Path.mkdir)
    train(name, out)


def every_event(name: str, root: Path) -> int:
    """One run for every change on disk, killed there and resumed; returns how many there were."""
    event = 0
    while True:
        event += 1
        out = root / f"event_{event:03d}"
        status = os.waitpid(forked(lambda out=out, event=event: train_and_die(name, out, event)), 0)[1]
        finish(name, out)
        if not os.WIFSIGNALED(status):
            return event - 1


def random_moments(name: str, out: Path, kills: int, seconds: float) -> None:
    """One run, killed again and again wherever it happens to be."""
    generator = random.Random(name)
    for _ in range(kills):
        pid = forked(lambda: train(name, out))
        time.sleep(generator.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finish(name, out)


def main(root: str, *names: str) -> None:
    for name in names:
        folder = Path(root) / name
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        finish(name, folder / "whole")
        seconds = time.perf_counter() - started
        random_moments(name, folder / "random", 6, 1.2 * seconds)
        if name == "tiny":
            (folder / "events").write_text(str(every_event(name, folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
