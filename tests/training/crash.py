"""Kills training processes at chosen and at random moments, and goes on with them: the program behind test_resume.py.

Started once as `python crash.py ROOT NAME...`: for every architecture an uninterrupted run in ROOT/NAME/whole and one
killed at random moments in ROOT/NAME/random; in ROOT/events one run for every change on disk, killed just before it.
Runs are forked from this process, which has imported torch and computed nothing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import stubs

RANDOM = {"steps": 13, "log_every": 3, "sample_every": 4, "metric_every": 6, "checkpoint_every": 5}
EVENTS = {"steps": 6, "log_every": 2, "sample_every": 5, "metric_every": 4, "checkpoint_every": 3}


def import_everything() -> None:
    """What training imports only when it comes to it, so that no fork does it again."""
    import PIL.PngImagePlugin
    import safetensors.torch
    import torch._dynamo

    import fastgan.nn.fuse

    os.fsync = lambda file: None  # for power failures only: what a killed process has written is with the system
    assert PIL and safetensors and torch._dynamo and fastgan.nn.fuse


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


def finish(name: str, out: Path, options: dict) -> None:
    """Train to the end; a failure ends the whole program."""
    status = os.waitpid(forked(lambda: train(name, out, options)), 0)[1]
    if status:
        sys.exit(f"{name} in {out}: training failed with status {status}")


def train(name: str, out: Path, options: dict) -> None:
    torch.set_num_threads(1)
    stubs.build(name, str(out), **options).fit()


def train_and_die(name: str, out: Path, options: dict, event: int) -> None:
    """Train; die by SIGKILL just before the ``event``-th change on disk. Returns if there are fewer."""
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
    Path.unlink = dying(Path.unlink)
    train(name, out, options)


def every_event(name: str, root: Path) -> int:
    """One run for every change on disk, killed there and resumed; returns how many there were."""
    finish(name, root / "whole", EVENTS)
    event = 0
    while True:
        event += 1
        out = root / f"event_{event:03d}"
        status = os.waitpid(forked(lambda out=out, event=event: train_and_die(name, out, EVENTS, event)), 0)[1]
        if not os.WIFSIGNALED(status):
            return event - 1
        finish(name, out, EVENTS)


def random_moments(name: str, root: Path, kills: int = 4) -> None:
    """One run, killed again and again wherever it happens to be, within the time that a whole run takes."""
    started = time.perf_counter()
    finish(name, root / "whole", RANDOM)
    seconds = time.perf_counter() - started
    generator = random.Random(name)
    for _ in range(kills):
        pid = forked(lambda: train(name, root / "random", RANDOM))
        time.sleep(generator.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finish(name, root / "random", RANDOM)


def main(root: str, *names: str) -> None:
    import_everything()
    for name in names:
        random_moments(name, Path(root) / name)
    (Path(root) / "count").write_text(str(every_event("tiny", Path(root) / "events")))


if __name__ == "__main__":
    main(*sys.argv[1:])
