"""The pool of processes that evaluate archs."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from joblib.externals.loky import cpu_count

from nas.evaluators import Evaluators, Failure, Finished
from search_spaces.space import Arch


def tenths(arch: Arch) -> float:
    return arch["width"] / 10


def finish_all(evaluators: Evaluators, num: int) -> dict[int, float | Failure]:
    finished: list[Finished] = []
    while len(finished) < num:
        finished += evaluators.wait()
    assert len(finished) == num
    return dict(finished)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_each_arch_gets_its_accuracy_or_the_traceback(num_workers: int) -> None:
    def accuracy(arch: Arch) -> float:  # of a notebook, which nobody can import
        if arch["width"] == 3:
            raise ZeroDivisionError("three")
        return tenths(arch)

    with Evaluators(accuracy, num_workers) as evaluators:
        assert evaluators.wait() == []
        for key in range(5):
            evaluators.submit(key, {"width": key})
        found = finish_all(evaluators, 5)
        assert evaluators.wait() == []
    failure = found.pop(3)
    assert found == {0: 0.0, 1: 0.1, 2: 0.2, 4: 0.4}
    assert isinstance(failure, Failure)
    assert failure.text.startswith("Traceback")
    assert failure.text.rstrip().endswith("ZeroDivisionError: three")


def test_one_worker_is_this_process_and_sends_nothing() -> None:
    lock = threading.Lock()  # cannot be pickled

    def accuracy(arch: Arch) -> float:
        with lock:
            return float(os.getpid())

    with Evaluators(accuracy, 1) as evaluators:
        evaluators.submit(0, {})
        assert evaluators.wait() == [(0, float(os.getpid()))]


def test_an_accuracy_that_cannot_be_sent_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(ValueError, match=r"cannot be sent to another process: .*lock.*; open files.*num_workers=1"):
        Evaluators(lambda arch: float(lock.locked()), 2)
    with pytest.raises(ValueError, match="num_workers must be at least 1, found 0"):
        Evaluators(tenths, 0)


def test_an_arch_that_kills_its_worker_fails_at_the_third_time_and_harms_no_neighbour(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def accuracy(arch: Arch) -> float:
        with log.open("a") as file:
            file.write(f"{arch['width']}\n")
        if arch["width"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if arch["width"] == 4:
            raise SystemExit(0)
        time.sleep(0.2)
        return tenths(arch)

    with Evaluators(accuracy, 2) as evaluators:
        for key in range(5):
            evaluators.submit(key, {"width": key})
        found = finish_all(evaluators, 5)
    killed, left = found.pop(1), found.pop(4)
    assert killed == Failure("the worker that evaluated it died (SIGKILL(-9)), 3 times")
    assert isinstance(left, Failure)
    assert "SystemExit" in left.text
    assert found == {0: 0.0, 2: 0.2, 3: 0.3}
    assert sorted(map(int, log.read_text().split())) == [0, 1, 1, 1, 2, 3, 4]


def test_a_worker_that_is_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    def accuracy(arch: Arch) -> float:
        (tmp_path / f"{os.getpid()}.{arch['width']}").touch()
        time.sleep(arch["seconds"])
        return tenths(arch)

    with Evaluators(accuracy, 2) as evaluators:
        evaluators.submit(1, {"width": 1, "seconds": 0})
        assert evaluators.wait() == [(1, 0.1)]
        os.kill(int(next(tmp_path.glob("*.1")).stem), signal.SIGKILL)  # idle
        evaluators.submit(2, {"width": 2, "seconds": 1})
        evaluators.submit(3, {"width": 3, "seconds": 1})
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.3")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(int(next(tmp_path.glob("*.3")).stem), signal.SIGKILL)  # busy
        assert finish_all(evaluators, 2) == {2: 0.2, 3: 0.3}
    assert len(list(tmp_path.glob("*.3"))) == 2


def test_the_accuracy_goes_to_each_worker_once() -> None:
    class Heavy:
        num_loads = 0

        def __init__(self) -> None:
            self.weights = bytes(10_000_000)

        def __setstate__(self, state: dict[str, bytes]) -> None:
            self.__dict__ = state
            type(self).num_loads += 1

        def __call__(self, arch: Arch) -> float:
            return float(len(self.weights) + self.num_loads)

    with Evaluators(Heavy(), 2) as evaluators:
        for key in range(6):
            evaluators.submit(key, {})
        assert set(finish_all(evaluators, 6).values()) == {10_000_001.0}


def test_workers_share_the_cores_and_ignore_the_terminals_interrupt() -> None:
    def accuracy(arch: Arch) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return float(os.environ["OMP_NUM_THREADS"])

    with Evaluators(accuracy, 2) as evaluators:
        evaluators.submit(0, {})
        ((_, num_threads),) = evaluators.wait()
    assert num_threads == max(1, cpu_count() // 2)


SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from nas.evaluators import Evaluators
    folder = Path(sys.argv[1])
    def accuracy(arch):
        (folder / str(os.getpid())).touch()
        time.sleep(60)
        return 0.5
    with Evaluators(accuracy, 2) as evaluators:
        for key in range(4):
            evaluators.submit(key, {})
        evaluators.wait()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_ended_leaves_no_workers(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    # A process that was started in the background ignores Ctrl-C, and so do those that it starts.
    script.write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + textwrap.dedent(SCRIPT)
    )
    (tmp_path / "pids").mkdir()
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "pids")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as parent:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
        assert len(pids) == 2
        if how is signal.SIGINT:
            os.killpg(parent.pid, how)  # as a terminal does
        else:
            parent.send_signal(how)
        assert parent.stderr is not None
        parent.wait(timeout=60)
        while any(map(_lives, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_lives, pids))
        if how is signal.SIGINT:
            assert parent.stderr.read().count("KeyboardInterrupt") == 1


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
