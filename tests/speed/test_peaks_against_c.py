"""Our peaks beside hand-tuned loops in C, on one thread, in the same minutes. Reported, never asserted:

pytest tests/speed/test_peaks_against_c.py --benchmark-enable -s
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from predictors.measure.clock import Clock
from predictors.measure.peaks import WORKING_SETS_BYTES, arithmetic_peaks, bandwidths

ROUNDS = 5
IN_MEMORY_BYTES = tuple(size for size in WORKING_SETS_BYTES["cpu"] if size > 2**26)
SOURCE = Path(__file__).with_name("peaks.c")
WITHOUT_MEMORY = ("fma", "tile")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile the loops with")
    if (
        "AVX2" not in torch.backends.cpu.get_cpu_capability()
        and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    ):
        pytest.skip("the loops are written for AVX2")
    subprocess.run([compiler, "-O3", "-march=native", "-o", tmp_path / "peaks", SOURCE], check=True)
    return tmp_path / "peaks"


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peaks_of_c(program: Path) -> dict[str, float]:
    """FLOP/s and byte/s of each loop."""
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


def peaks_of_ours() -> dict[str, float]:
    clock = Clock()
    found = {name: peak.flops_per_s for name, peak in arithmetic_peaks(clock).items()}
    return {**found, "memory": max(each.bytes_per_s for each in bandwidths(clock, IN_MEMORY_BYTES))}


@pytest.mark.usefixtures("one_thread")
def test_peaks_beside_hand_tuned_loops(benchmark: BenchmarkFixture, program: Path) -> None:
    if not benchmark.enabled:
        pytest.skip("takes a minute and asserts nothing on times: --benchmark-enable runs it")
    c_rounds: list[dict[str, float]] = []
    our_rounds: list[dict[str, float]] = []

    def one_round() -> None:
        found = peaks_of_c(program)
        memory = max(value for name, value in found.items() if name not in WITHOUT_MEMORY)
        c_rounds.append({**found, "memory": memory})
        our_rounds.append(peaks_of_ours())

    benchmark.pedantic(one_round, rounds=ROUNDS)
    for name in c_rounds[0]:
        benchmark.extra_info[f"C {name} (G/s)"] = report(name, [found[name] for found in c_rounds])
    for name in our_rounds[0]:
        benchmark.extra_info[f"ours {name} (G/s)"] = report(f"ours {name}", [found[name] for found in our_rounds])
    for ours, theirs in (("float32", "fma"), ("float32", "tile"), ("memory", "memory")):
        ratios = [our[ours] / c[theirs] for our, c in zip(our_rounds, c_rounds)]
        best = max(our[ours] for our in our_rounds) / max(c[theirs] for c in c_rounds)
        print(f"ours {ours} / C {theirs}: median {median(ratios):.3f} of {[round(ratio, 3) for ratio in ratios]}, "
              f"best to best {best:.3f}")  # fmt: skip
        benchmark.extra_info[f"ours {ours} / C {theirs}"] = {"median": median(ratios), "best": best}
        assert 0.1 < best < 3.0, "the two do not count the same thing"


def report(name: str, values: list[float]) -> float:
    """Print a peak and return its greatest value, in 1e9 a second."""
    print(f"{name:14s} best {max(values) / 1e9:6.1f}  median {median(values) / 1e9:6.1f} G/s")
    return max(values) / 1e9
