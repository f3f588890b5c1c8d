"""Who performs the points of a sweep: this process, several of it, or the jobs of a cluster."""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from tlmtool.failure import Failure, Stopped
from tlmtool.measuring.profiling import release_memory

OMP = "OMP_NUM_THREADS"

Explain = Callable[[BaseException], tuple[str, int]]  # an error -> (sentence, exit code)
Failed = tuple[str, int] | None  # why a point has no result, and the exit code
Work = Callable[[], Any]  # performs a point; it can be pickled


class Worker(Protocol):
    """Takes the work of points, and tells of each when it is done."""

    explain: Explain

    def add(self, name: str, work: Work) -> None:
        """Take the work of a point."""
        ...

    def next(self) -> tuple[str, Failed]:
        """Wait until a point is done: its name, and why it failed."""
        ...

    def end(self) -> None:
        """Stop what is still at work."""
        ...


def attempted(work: Work, explain: Explain) -> Failed:
    """Perform a point in this process: why it failed."""
    try:
        work()
    except (Stopped, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        traceback.clear_frames(error.__traceback__)  # they hold the model
        return explain(error)
    finally:
        release_memory()
    return None


@dataclass
class Alone:
    """One point after another, in this process."""

    explain: Explain
    queue: deque[tuple[str, Work]] = field(default_factory=deque)

    def add(self, name: str, work: Work) -> None:
        self.queue.append((name, work))

    def next(self) -> tuple[str, Failed]:
        name, work = self.queue.popleft()
        return name, attempted(work, self.explain)

    def end(self) -> None:
        pass


@dataclass
class Processes:
    """Up to `jobs` points at a time, each in a process of its own, with its share of the cores.

    `logs`: the folder for what they print, which is removed where a point is done."""

    explain: Explain
    jobs: int
    logs: Path
    queue: deque[tuple[str, Work]] = field(default_factory=deque)
    running: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def add(self, name: str, work: Work) -> None:
        self.queue.append((name, work))

    def next(self) -> tuple[str, Failed]:
        while self.queue and len(self.running) < self.jobs:
            self._start(*self.queue.popleft())
        ready = connection.wait([pipe for _, pipe in self.running.values()])
        name = next(name for name, (_, pipe) in self.running.items() if pipe in ready)
        process, pipe = self.running.pop(name)
        log = self.logs / f"{name}.log"
        try:
            failed = pipe.recv()
        except EOFError:  # it ended without a word
            process.join()
            how = f"signal {-process.exitcode}" if process.exitcode < 0 else "an error"
            failed = f"its process was ended by {how}; see {log}", Failure.code
        process.join()
        if failed is None:
            log.unlink(missing_ok=True)
        return name, failed

    def _start(self, name: str, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        threads = share_of(self.jobs)
        self.logs.mkdir(parents=True, exist_ok=True)
        packed = pickle.dumps((work, self.explain))
        given = (theirs, packed, threads, self.logs / f"{name}.log")
        process = context.Process(target=perform_alone, args=given, name=name)
        with _threads(threads):
            process.start()
        theirs.close()
        self.running[name] = (process, ours)

    def end(self) -> None:
        for process, _ in self.running.values():
            try:
                os.killpg(process.pid, signal.SIGTERM)  # also what it has started
            except ProcessLookupError:  # it leads no group yet, or is done
                process.terminate()
        for process, _ in self.running.values():
            process.join()


def share_of(jobs: int) -> int:
    """The threads of each of so many processes: its share of the cores that this one may use, and
    no more than the environment says."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    given = os.environ.get(OMP, "")
    return max(1, min(cores // jobs, int(given) if given.isdecimal() else cores))


@contextlib.contextmanager
def _threads(count: int) -> Any:
    """The environment in which torch, once imported, takes so many threads."""
    before = os.environ.get(OMP)
    os.environ[OMP] = str(count)
    try:
        yield
    finally:
        os.environ.pop(OMP)
        if before is not None:
            os.environ[OMP] = before


def perform_alone(pipe: Any, packed: bytes, threads: int, file: Path) -> None:
    """The whole of a process that performs one point; it ends with the one that started it.
    `packed`: the work and what explains its failure, pickled. To read them imports libraries, of
    which some print: that belongs into the file."""
    os.setpgrp()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    with file.open("w", encoding="utf-8") as opened:
        for stream in (1, 2):
            os.dup2(opened.fileno(), stream)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("tlmtool").setLevel(logging.INFO)
    import torch

    torch.set_num_threads(threads)
    work, explain = pickle.loads(packed)
    try:
        work()
    except BaseException as error:
        traceback.print_exc()
        pipe.send(explain(error))
    else:
        pipe.send(None)


def _follow(parent: Any) -> None:
    """End this process, and what it has started, at once when its parent is gone: what it began,
    `--resume` goes on with."""
    parent.join()
    os.killpg(0, signal.SIGTERM)
