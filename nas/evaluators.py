"""Accuracies of several archs at once: a pool of processes that the searching process owns.

The function that tells the accuracy, with the supernet and the images that it may hold, goes to each worker once. A
worker that dies takes nobody with it: its arch is evaluated again by a fresh one.
"""

import os
import re
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from joblib.externals.loky import ProcessPoolExecutor, cpu_count  # type: ignore[import-untyped]
from typing_extensions import Self

from search_spaces.space import Arch

MAX_DEATHS = 3
"""An arch whose worker has died as often is not tried again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no accuracy: a traceback, or a sentence."""

    text: str


Finished = tuple[int, float | Failure]


class Evaluators:
    """`num_workers` archs at a time; one worker is this process, where nothing needs to be sent.

    Whatever the accuracy raises is a `Failure`; Ctrl-C is raised here and ends the workers.

    Raises:
        ValueError: the accuracy cannot be sent to another process, or there is no worker.
    """

    def __init__(self, accuracy: Callable[[Arch], float], num_workers: int) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, found {num_workers}")
        self._accuracy = accuracy
        self._payload = _pickled(accuracy) if num_workers > 1 else b""
        self._waiting: deque[tuple[int, Arch]] = deque()
        self._running: dict[Future[Any], tuple[int, Arch, int]] = {}
        self._deaths: Counter[int] = Counter()
        self._num_threads = max(1, cpu_count() // num_workers)
        self._pools = [self._pool() for _ in range(num_workers)] if num_workers > 1 else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, kill_workers=True)

    def submit(self, key: int, arch: Mapping[str, int]) -> None:
        """Have an arch evaluated, at once if a worker is free; `wait` returns its accuracy with the key."""
        self._waiting.append((key, dict(arch)))
        self._start()

    def wait(self) -> list[Finished]:
        """Wait until something is finished and return it; nothing, if nothing was submitted."""
        if not self._pools:
            if not self._waiting:
                return []
            key, arch = self._waiting.popleft()
            return [(key, _evaluated(self._accuracy, arch))]
        finished: list[Finished] = []
        while self._running and not finished:
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in done:
                finished += self._ended(future)
            self._start()
        return finished

    # -------------------------------------------------------------------------------------------------------- private

    def _pool(self) -> ProcessPoolExecutor:
        """One worker: were it a pool of several, nobody could tell which arch ended the one that died."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self._num_threads))
        arguments = (self._payload, os.getpid(), self._num_threads)
        return ProcessPoolExecutor(max_workers=1, initializer=_prepare, initargs=arguments, env=threads)

    def _start(self) -> None:
        busy = {index for _, _, index in self._running.values()}
        for index in range(len(self._pools)):
            if index not in busy and self._waiting:
                key, arch = self._waiting.popleft()
                self._running[self._sent(index, arch)] = (key, arch, index)

    def _sent(self, index: int, arch: Arch) -> Future[Any]:
        with interrupts_blocked():
            future: Future[Any]
            try:
                future = self._pools[index].submit(_evaluated_there, arch)
            except BrokenProcessPool:  # it died while it was idle
                self._replace(index)
                future = self._pools[index].submit(_evaluated_there, arch)
            return future

    def _ended(self, future: Future[Any]) -> list[Finished]:
        key, arch, index = self._running.pop(future)
        error = future.exception()
        if error is None:
            return [(key, future.result())]
        if not isinstance(error, BrokenProcessPool):
            return [(key, Failure("".join(traceback.format_exception(error))))]
        self._replace(index)
        self._deaths[key] += 1
        if self._deaths[key] < MAX_DEATHS:
            self._waiting.appendleft((key, arch))
            return []
        how = re.search(r"\{(.*)\}", str(error))
        ends = f" ({how[1]})" if how else ""
        return [(key, Failure(f"the worker that evaluated it died{ends}, {MAX_DEATHS} times"))]

    def _replace(self, index: int) -> None:
        self._pools[index].shutdown(wait=True, kill_workers=True)
        self._pools[index] = self._pool()


# ------------------------------------------------------------------------------------------------------------ private

_there: dict[str, Any] = {}
"""In a worker: the accuracy, or why it could not be read."""


def _pickled(accuracy: Callable[[Arch], float]) -> bytes:
    try:
        return bytes(cloudpickle.dumps(accuracy))
    except Exception as error:
        raise ValueError(
            f"the accuracy {accuracy!r} cannot be sent to another process: {error}; "
            "open files, locks and connections where it is called, or use num_workers=1"
        ) from error


def _prepare(payload: bytes, parent: int, num_threads: int) -> None:
    """What a worker does first. It raises nothing, since a pool only says of that that a worker died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    try:
        _there["accuracy"] = cloudpickle.loads(payload)
    except Exception:
        _there["failure"] = Failure(traceback.format_exc())
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)


def end_with(parent: int) -> None:
    """A search that was killed leaves no workers behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _evaluated_there(arch: Arch) -> float | Failure:
    if "failure" in _there:
        return Failure(_there["failure"].text)
    try:
        return _evaluated(_there["accuracy"], arch)
    except BaseException:  # SystemExit and KeyboardInterrupt of somebody's function end no worker
        return Failure(traceback.format_exc())


def _evaluated(accuracy: Callable[[Arch], float], arch: Arch) -> float | Failure:
    try:
        return float(accuracy(dict(arch)))
    except Exception:
        return Failure(traceback.format_exc())


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A process that is started inside is never interrupted by the terminal's Ctrl-C, from its first instant on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
