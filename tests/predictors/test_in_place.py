import numpy as np
import pytest
from simulated import REFERENCE_S, SimulatedBackend, SimulatedClock, network, usual_seconds

from predictors import Measurement, fuse, load_runtime
from predictors.measure.in_place import Levels, measure_in_place, measure_isolated
from predictors.measure.isolated import Bench
from predictors.measure.rounds import Effort

EAGER = load_runtime("torch_eager")
ENDLESS = Effort(precision=0.01)


def measured(backend, graphs, clock=None, runtime=EAGER) -> Levels:
    into = Levels()
    bench = Bench(backend=backend, clock=clock or SimulatedClock(backend), launch_s=0.0)
    measure_in_place(graphs, bench, runtime, np.random.default_rng(0), into, ENDLESS)
    return into


def seconds_of(levels: Levels) -> dict:
    return {kernel: found.latency_p50_s for kernel, found in levels.measurements(REFERENCE_S).items()}


def test_each_kernel_gets_the_time_of_its_steps() -> None:
    found = seconds_of(measured(SimulatedBackend(EAGER), [network(8), network(12)]))
    kernels = {node.kernel for width in (8, 12) for node in fuse(network(width), EAGER, "float32")}
    assert set(found) == kernels
    for kernel, seconds in found.items():
        assert seconds == pytest.approx(usual_seconds(kernel), rel=1e-9)


def test_a_machine_that_slows_down_and_its_reference_with_it_changes_nothing() -> None:
    backend = SimulatedBackend(EAGER)
    rng = np.random.default_rng(1)
    drifting = SimulatedClock(backend, lambda: float(rng.choice([1.0, 1.27])))
    found = measured(backend, [network(8)], drifting)
    assert backend.now_s > 0.0
    assert found.num_repeated == 0
    for kernel, seconds in seconds_of(found).items():
        assert seconds == pytest.approx(usual_seconds(kernel), rel=1e-9)


def test_what_a_network_takes_beyond_its_kernels_is_shared_among_them() -> None:
    found = seconds_of(measured(SimulatedBackend(EAGER, between_s=5e-6), [network(8)]))
    for kernel, seconds in found.items():
        assert seconds == pytest.approx(usual_seconds(kernel) + 5e-6, rel=1e-6)


def test_what_the_profiler_adds_is_taken_off_in_proportion() -> None:
    found = seconds_of(measured(SimulatedBackend(EAGER, slowed=1.3), [network(8)]))
    for kernel, seconds in found.items():
        assert seconds == pytest.approx(usual_seconds(kernel), rel=1e-6)


def test_kernels_that_the_runtime_runs_as_one_are_reported_and_have_no_time() -> None:
    fusing = load_runtime("onnxruntime")
    found = measured(SimulatedBackend(fusing), [network(8)])  # the rules of eager say that nothing fuses
    assert any("conv2d(" in group and "normalization(" in group for group in found.not_told_apart)
    assert {kernel.kind for kernel in found.of_kernel} == {"adaptive_avg_pool2d", "linear"}


def test_a_network_with_a_kernel_that_cannot_be_run_still_gives_its_others_by_themselves() -> None:
    found = measured(SimulatedBackend(EAGER, refused=frozenset({"batch_norm"})), [network(8)])
    entries = found.measurements(REFERENCE_S)
    failed = {kernel.kind for kernel, entry in entries.items() if isinstance(entry, str)}
    assert failed == {"batch_norm"}
    assert all("has no kernel" in entry for entry in entries.values() if isinstance(entry, str))
    assert {kernel.kind for kernel in found.of_kernel} == {"conv2d", "relu", "adaptive_avg_pool2d", "linear"}


def test_a_runtime_that_times_nothing_inside_a_network_is_refused() -> None:
    backend = SimulatedBackend(EAGER)
    backend.profile = lambda graph: None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="measure kernels by themselves"):
        measured(backend, [network(8)])


def test_the_spread_is_the_standard_error_and_at_least_what_is_typical() -> None:
    first, second, third = fuse(network(8), EAGER, "float32")[:3]
    levels = Levels(of_kernel={
        first.kernel: [1.0, 1.1, 0.9, 1.0],  # deviation 0.0816
        second.kernel: [2.0, 2.2, 1.8, 2.0],
        third.kernel: [3.0, 3.0, 3.0, 3.0],  # agrees by chance
    })  # fmt: skip
    found = levels.measurements(REFERENCE_S)
    expected = Measurement(latency_p50_s=1e-3, spread=pytest.approx(0.0816 / 2, rel=1e-2), num_runs=20, num_visits=4)  # type: ignore[arg-type]
    assert found[first.kernel] == expected
    assert found[third.kernel].spread == found[first.kernel].spread  # type: ignore[union-attr]


def test_a_kernel_that_never_settles_is_failed_with_its_reason() -> None:
    node = fuse(network(8), EAGER, "float32")[0]
    found = Levels(of_kernel={node.kernel: [1.0, 5.0, 0.2]}).measurements(REFERENCE_S)
    assert found[node.kernel] == "never settled: standard error 148% after 15 runs"


def test_kernels_by_themselves_fail_one_by_one() -> None:
    backend = SimulatedBackend(EAGER, refused=frozenset({"linear"}))
    into = Levels()
    kernels = tuple(dict.fromkeys(node.kernel for node in fuse(network(8), EAGER, "float32")))
    bench = Bench(backend=backend, clock=SimulatedClock(backend), launch_s=0.0)
    measure_isolated(kernels, bench, np.random.default_rng(0), into, ENDLESS)
    assert {kernel.kind for kernel in into.failed} == {"linear"}
    assert set(into.of_kernel) == set(kernels) - set(into.failed)
