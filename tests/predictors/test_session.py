from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
from simulated import SimulatedBackend, SimulatedClock, network, usual_seconds

from predictors import LookupTable, Measurement, TableHeader, fuse, load_runtime
from predictors.measure.isolated import Bench
from predictors.measure.session import PASSES, VISITS, Plan, Settings, fill_table, isolated_seconds
from predictors.measure.session import whole_network_seconds as whole_seconds

EAGER = load_runtime("torch_eager")
QUIET = Settings(progress=False)
HEADER = TableHeader(
    device="host", runtime="torch_eager", runtime_version="1.0", dtype="float32", threads=1, date="2026-11-25",
    reference_kernel="none",
)  # fmt: skip
NETWORKS = tuple(network(width) for width in range(4, 36, 4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    LookupTable.open(tmp_path / "table.jsonl", HEADER)
    return tmp_path / "table.jsonl"


def fill(path: Path, backend: SimulatedBackend, settings: Settings = QUIET, plan: Plan | None = None):
    plan = plan or Plan(networks=NETWORKS)
    return fill_table(path, plan, bench_of(backend), EAGER, settings)


def bench_of(backend: SimulatedBackend, clock: SimulatedClock | None = None) -> Bench:
    return Bench(backend=backend, clock=clock or SimulatedClock(backend), launch_s=0.0)


def test_every_kernel_of_the_plan_is_visited_in_every_pass(path: Path) -> None:
    filled = fill(path, SimulatedBackend(EAGER))
    table = LookupTable.read(path)
    assert set(table.entries) == {node.kernel for graph in NETWORKS for node in fuse(graph, EAGER, "float32")}
    assert all(entry.num_visits >= PASSES * VISITS for entry in table.entries.values())
    for kernel, entry in table.entries.items():
        assert entry.latency_p50_s == pytest.approx(usual_seconds(kernel), rel=1e-6)
    assert filled.num_left_out == filled.num_repeated == 0


def test_a_profile_that_was_cut_goes_on_where_it_stopped(path: Path) -> None:
    """Cut anywhere: what stands in the file is kept, and every kernel is visited often enough in the end."""
    fill(path, SimulatedBackend(EAGER))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for num_lines in (1, 2, len(lines) // 3, len(lines) - 2):
        path.write_bytes(b"".join(lines[:num_lines]) + lines[num_lines][:20])
        with pytest.warns(UserWarning, match="the last line is torn"):
            fill(path, SimulatedBackend(EAGER))
        assert path.read_bytes().startswith(b"".join(lines[:num_lines]))
        table = LookupTable.read(path)
        assert set(table.entries) == set(_read(whole, path).entries)
        assert all(entry.num_visits >= PASSES * VISITS for entry in table.entries.values())


def _read(content: bytes, path: Path) -> LookupTable:
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(content)
    return LookupTable.read(copy)


def test_a_finished_profile_runs_nothing_again(path: Path) -> None:
    fill(path, SimulatedBackend(EAGER))
    before = path.read_bytes()
    idle = SimulatedBackend(EAGER)
    fill(path, idle)
    assert idle.now_s == 0.0
    assert path.read_bytes() == before


def test_what_the_budget_left_out_is_said_and_a_first_batch_is_always_measured(path: Path) -> None:
    with pytest.warns(UserWarning, match=r"the budget of 1e-09 s left 2 networks or kernels out"):
        filled = fill(path, SimulatedBackend(EAGER), Settings(progress=False, budget_s=1e-9))
    assert filled.num_left_out == 2  # of eight, in batches of six
    first = {node.kernel for graph in NETWORKS[:6] for node in fuse(graph, EAGER, "float32")}
    assert set(LookupTable.read(path).entries) == first


def test_passes_that_disagree_are_averaged_and_widen_the_spread(path: Path) -> None:
    """The second pass finds everything 10 % slower, and the reference does not show it."""
    backend = SimulatedBackend(EAGER)
    seconds_of_pass = [1.0, 1.1]
    runs = {"count": 0}
    calls = len(NETWORKS[:1]) * 2 * VISITS * 6  # a profile and a network, with warm-ups

    def seconds(kernel):
        return usual_seconds(kernel) * seconds_of_pass[min(runs["count"] // calls, 1)]

    backend.seconds = seconds

    class Counting(SimulatedClock):
        def _sample(self, run):
            found = super()._sample(run)
            runs["count"] += 1
            return found

    fill_table(path, Plan(networks=NETWORKS[:1]), bench_of(backend, Counting(backend)), EAGER, QUIET)
    for kernel, entry in LookupTable.read(path).entries.items():
        assert entry.latency_p50_s == pytest.approx(usual_seconds(kernel) * sqrt(1.1), rel=1e-6)
        assert entry.spread == pytest.approx(log(1.1) / 2, rel=1e-6)


def test_kernels_of_a_list_are_measured_by_themselves(path: Path) -> None:
    kernels = tuple(dict.fromkeys(node.kernel for node in fuse(network(8), EAGER, "float32")))
    fill(path, SimulatedBackend(EAGER, lambda kernel: 1e-4 + usual_seconds(kernel)), plan=Plan(kernels=kernels))
    table = LookupTable.read(path)
    assert set(table.entries) == set(kernels)
    for kernel, entry in table.entries.items():  # less what the empty network takes, about 1 us
        assert entry.latency_p50_s == pytest.approx(usual_seconds(kernel), abs=2e-6)


def test_a_kernel_that_fails_is_written_down_with_its_reason_and_not_tried_again(path: Path) -> None:
    fill(path, SimulatedBackend(EAGER, refused=frozenset({"linear"})), plan=Plan(networks=NETWORKS[:1]))
    table = LookupTable.read(path)
    assert [kernel.kind for kernel in table.failures] == ["linear"]
    assert "has no kernel" in next(iter(table.failures.values()))
    idle = SimulatedBackend(EAGER)
    fill(path, idle, plan=Plan(networks=NETWORKS[:1]))
    assert idle.now_s == 0.0


def test_whole_networks_and_single_kernels_are_timed_outside_of_the_table() -> None:
    backend = SimulatedBackend(EAGER, between_s=1e-6)
    kernels = [node.kernel for node in fuse(network(8), EAGER, "float32")]
    (seconds,) = whole_seconds([network(8)], backend, SimulatedClock(backend), QUIET)
    assert seconds == pytest.approx(sum(usual_seconds(kernel) + 1e-6 for kernel in kernels), rel=1e-9)
    alone = isolated_seconds(set(kernels), bench_of(backend), QUIET)
    assert set(alone) == set(kernels)
    assert np.isfinite(list(alone.values())).all()


@pytest.mark.parametrize("wrong", [{"budget_s": 0.0}, {"precision": -1.0}, {"budget_s": float("nan")}])
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="budget_s and precision must be positive"):
        Settings(**wrong)


def test_a_measurement_says_how_many_visits_it_comes_from(path: Path) -> None:
    fill(path, SimulatedBackend(EAGER), plan=Plan(networks=NETWORKS[:1]))
    entry = next(iter(LookupTable.read(path).entries.values()))
    assert isinstance(entry, Measurement)
    assert entry.num_runs == 5 * entry.num_visits
