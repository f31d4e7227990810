import subprocess
import sys
import time

import pytest

from predictors.measure.clock import Clock


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_on_one_thread_time_stands_still_while_the_process_sleeps() -> None:
    """In a process of its own: threads that other tests have left behind may spin."""
    script = (
        "import time; from predictors.measure.clock import Clock; "
        "print(Clock(threads=1).best_s(lambda: time.sleep(0.005)))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(found.stdout) < 0.002
    assert Clock(threads=2).best_s(lambda: time.sleep(0.005)) > 0.002


def test_a_sample_reads_the_run_and_nothing_of_the_reference() -> None:
    clock = Clock()
    (sample,) = clock.samples(lambda: busy(0.02), 1)
    assert 0.02 <= sample.seconds < 0.025
    assert sample.wall_s >= 0.02
    assert 0.0 < sample.reference_s < 0.02


def test_a_peak_is_the_least_time_that_was_seen() -> None:
    waits = iter(
        [0.0, 0.004, 0.003, 0.003, 0.003, 0.006]
    )  # the first is a warm-up, the second finds the number of runs
    assert 0.003 <= Clock().best_s(lambda: busy(next(waits))) < 0.004


def test_the_reference_at_its_best_is_remembered_from_session_to_session() -> None:
    clock = Clock()
    own_s = clock.reference_s
    assert own_s > 1e-6
    assert Clock(best_reference_s=own_s / 10).reference_s == pytest.approx(own_s / 10)
    assert Clock(best_reference_s=own_s * 10).reference_s < own_s * 5


def test_drift_is_how_much_slower_than_its_best_the_reference_was() -> None:
    clock = Clock()
    clock._reference_times[:] = [1.0] * 15 + [2.0] * 5
    assert clock.drift == pytest.approx(0.25)
