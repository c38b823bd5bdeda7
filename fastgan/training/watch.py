"""Whether the other processes of a run still live, and what to say when one does not.

A thread in each process writes a beat into the store of the process group, twice a second, and reads those of the
others. A beat counts up and carries what its process has to say: nothing, that it stopped and why, or that it left.
Process groups alone do not tell: gloo names no rank in "connection closed by peer", NCCL waits for a dead rank until
its timeout, and that must be long enough for whatever rank 0 does alone.

A process stuck in a collective call, or in anything else, cannot raise an error; when another has been gone for GRACE
seconds the thread ends it with the message.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

__all__ = ["Lost", "Watch"]

TICK = 0.5  # seconds between beats
SILENT = 4.0  # without a beat: gone, where a collective call has failed already
GONE = 15.0  # without a beat: gone in any case; longer than any pause in which a thread gets no turn
GRACE = 10.0  # for the main thread to end by itself; with GONE less than the 30 s after which torchrun kills


@dataclass(frozen=True)
class Lost:
    """A process that is gone: its rank, and what it said last, if anything. Rank -1: of the store all depend on."""

    rank: int
    reason: str | None

    def __str__(self) -> str:
        if self.rank < 0:
            return f"the process that holds the rendezvous (rank 0 or its torchrun) is gone: {self.reason}"
        return f"rank {self.rank} " + (f"stopped: {self.reason}" if self.reason else "died without a word")


class Watch:
    """One process's eye on the others. ``say(lost)``: the message for a user."""

    def __init__(self, store: dist.Store, rank: int, world: int, say: Callable[[Lost], str]) -> None:
        self._store = store.clone()  # a connection of its own: a call that waits holds up no other thread
        self._store.set_timeout(timedelta(seconds=GONE))
        self._keys = [f"beat/{r}" for r in range(world)]
        self._rank = rank
        self._say = say
        self._count = 0
        self._word: dict[str, str | bool] = {}
        self._seen = [(-1, 0.0)] * world  # of each process the latest count and when it came
        self._lost: dict[int, Lost] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="fastgan-watch", daemon=True)
        self._beat()  # every key is there before anybody reads

    def start(self) -> None:
        """After all processes have made theirs."""
        self._thread.start()

    def report(self, reason: str) -> None:
        """This process stops because of an error of its own. Returns when the others have had the time to read it."""
        self._leave({"stopped": reason})
        time.sleep(3 * TICK)

    def leave(self) -> None:
        """This process ends, well or because another did: no reason for anybody to look for it."""
        self._leave({"left": True})

    def find(self) -> Lost | None:
        """Who is gone, after the time it takes to know; a process that said why before one that is only silent."""
        deadline = time.monotonic() + SILENT + 2 * TICK
        while time.monotonic() < deadline:
            if told := [lost for lost in self._lost.values() if lost.reason]:
                return told[0]
            time.sleep(TICK / 2)
        return next(iter([*self._lost.values(), *self._silent(SILENT)]), None)

    @property
    def known(self) -> Lost | None:
        """Who is known to be gone now."""
        return next(iter(self._lost.values()), None)

    # -- the thread ----------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        since = None  # when somebody was first found gone
        while not self._ended.wait(TICK):
            try:
                with self._lock:
                    if not self._ended.is_set():
                        self._beat()
                        self._read()
            except Exception as error:  # the store's other end is gone
                self._lost.setdefault(-1, Lost(-1, str(error).strip().splitlines()[0]))
            lost = next(iter([*self._lost.values(), *self._silent(GONE)]), None)
            if lost is None:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since > GRACE:
                print(self._say(lost), file=sys.stderr, flush=True)
                os._exit(1)

    def _beat(self) -> None:
        self._count += 1
        self._store.set(self._keys[self._rank], json.dumps({"count": self._count, **self._word}))

    def _read(self) -> None:
        now = time.monotonic()
        for rank, text in enumerate(self._store.multi_get(self._keys)):
            beat = json.loads(text)
            if beat["count"] != self._seen[rank][0]:
                self._seen[rank] = (beat["count"], float("inf") if "left" in beat else now)
            if "stopped" in beat and rank != self._rank:
                self._lost.setdefault(rank, Lost(rank, beat["stopped"]))

    def _silent(self, seconds: float) -> list[Lost]:
        now = time.monotonic()
        return [
            Lost(rank, None)
            for rank, (count, when) in enumerate(self._seen)
            if rank != self._rank and count >= 0 and now - when > seconds
        ]

    def _leave(self, word: dict[str, str | bool]) -> None:
        self._word = word
        in_turn = self._lock.acquire(timeout=4 * TICK)  # not where the thread waits for a store that is gone
        if in_turn and not self._ended.is_set():
            with contextlib.suppress(Exception):  # nobody is left to read it
                self._beat()
        self._ended.set()
        if in_turn:
            self._lock.release()
        self._thread.join(timeout=4 * TICK)  # an interpreter that ends under a thread in a store's call aborts
