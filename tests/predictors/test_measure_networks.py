from dataclasses import replace
from pathlib import Path

import pytest
from simulated import REFERENCE_S, SimulatedBackend, SimulatedClock, network, usual_seconds

from predictors import Graph, TableHeader, fuse, load_runtime
from predictors.graph_file import read_graphs
from predictors.measure.networks import Repeats, measure_networks
from predictors.measure.session import Settings
from predictors.measure_networks import main
from predictors.network_times import NetworkTime, NetworkTimes, append_failure, append_time

EAGER = load_runtime("torch_eager")
QUIET = Settings(progress=False)
HEADER = TableHeader(
    device="host", runtime="torch_eager", runtime_version="1.0", dtype="float32", threads=1, date="2026-11-26",
    reference_kernel="none",
)  # fmt: skip
NETWORKS = {f"width_{width:02d}": network(width) for width in range(4, 32, 4)}


def seconds(graph: Graph) -> float:
    return sum(usual_seconds(node.kernel) for node in fuse(graph, EAGER, "float32"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    NetworkTimes.open(tmp_path / "times.jsonl", HEADER)
    return tmp_path / "times.jsonl"


def measure(
    path: Path, backend: SimulatedBackend, networks: dict[str, Graph] = NETWORKS, **repeats: int
) -> NetworkTimes:
    measure_networks(path, networks, backend, SimulatedClock(backend), QUIET, Repeats(**repeats))
    return NetworkTimes.read(path)


def test_every_network_is_measured_in_every_pass(path: Path) -> None:
    found = measure(path, SimulatedBackend(EAGER), passes=2, instances=3)
    assert found.passes == (1, 2)
    assert found.graphs == {time.name: NETWORKS[time.name] for time in found.of_pass(1).values()}
    for number in found.passes:
        times = found.of_pass(number)
        assert set(times) == set(NETWORKS)
        for name, time in times.items():
            assert time.latency_p50_s == pytest.approx(seconds(NETWORKS[name]), rel=1e-6)
            assert time.num_visits >= 3 * 4


def test_the_second_pass_comes_after_the_whole_first(path: Path) -> None:
    numbers = [time.number for time in measure(path, SimulatedBackend(EAGER), passes=3).times]
    assert numbers == sorted(numbers)


def test_a_cut_file_goes_on_where_it_stopped(path: Path) -> None:
    measure(path, SimulatedBackend(EAGER), passes=2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    with pytest.warns(UserWarning, match="the last line is torn"):
        measure(path, SimulatedBackend(EAGER), passes=2)
    assert path.read_bytes().startswith(b"".join(lines[:4]))
    found = NetworkTimes.read(path)
    assert [set(found.of_pass(number)) for number in (1, 2)] == [set(NETWORKS)] * 2
    assert len(found.times) == 2 * len(NETWORKS)


def test_a_network_that_cannot_be_run_is_said_and_not_tried_again(path: Path) -> None:
    backend = SimulatedBackend(EAGER, refused=frozenset({"linear"}))
    assert measure(path, backend).times == ()
    before = path.read_bytes()
    found = measure(path, backend)
    assert path.read_bytes() == before
    assert set(found.failures) == set(NETWORKS)
    assert all("linear" in reason for reason in found.failures.values())


def test_another_network_of_the_same_name_is_refused(path: Path) -> None:
    measure(path, SimulatedBackend(EAGER), passes=1)
    with pytest.raises(ValueError, match="'width_04' is another network there"):
        measure(path, SimulatedBackend(EAGER), {"width_04": network(12)})


def test_a_file_of_another_runtime_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"runtime_version='1\.0', asked to go on with '2\.0'"):
        NetworkTimes.open(path, replace(HEADER, runtime_version="2.0"))


def test_times_are_brought_to_the_best_reference_of_the_file(path: Path) -> None:
    """The reference was 2 ms at its best when the first was written, then 1 ms: the first took half of what it says."""
    time = NetworkTime(
        name="a", graph=network(4), number=1, latency_p50_s=8e-3, spread=0.01, num_visits=12, reference_s=2e-3
    )
    append_time(path, time)
    append_time(path, replace(time, name="b", latency_p50_s=4e-3, reference_s=1e-3))
    assert [each.latency_p50_s for each in NetworkTimes.read(path).times] == [4e-3, 4e-3]


def test_a_spread_tells_how_far_the_median_may_be_off(path: Path) -> None:
    """The simulated clock takes the machine's drift off, so visits agree."""
    speeds = iter(range(1_000_000))
    backend = SimulatedBackend(EAGER)
    clock = SimulatedClock(backend, lambda: 1.0 + 0.3 * (next(speeds) % 7) / 7)
    measure_networks(path, NETWORKS, backend, clock, QUIET, Repeats(passes=1))
    found = NetworkTimes.read(path)
    assert all(time.spread < 1e-6 and time.reference_s == REFERENCE_S for time in found.times)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"network": "a", "number": 1}', ":2: "),
        ('{"network": "a", "number": 1, "failed": 7}', ":2: failed"),
        ("[]", ":2: expected an object"),
    ],
)
def test_a_malformed_line_is_named(path: Path, line: str, message: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        NetworkTimes.read(path)


def test_impossible_seconds_are_refused(path: Path) -> None:
    append_time(
        path,
        NetworkTime(name="a", graph=network(4), number=1, latency_p50_s=0.0, spread=0.0, num_visits=1, reference_s=1.0),
    )
    with pytest.raises(ValueError, match="seconds must be positive"):
        NetworkTimes.read(path)


def test_repeats_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Repeats(visits=0)


def test_halves_are_means_over_every_second_pass(path: Path) -> None:
    for number, latency_s in enumerate((1.0, 3.0, 4.0), start=1):
        append_time(
            path,
            NetworkTime(
                name="a", graph=network(4), number=number, latency_p50_s=latency_s, spread=0.0, num_visits=1,
                reference_s=1.0,
            ),
        )  # fmt: skip
    found = NetworkTimes.read(path)
    assert found.halves() == ({"a": pytest.approx(2.0)}, {"a": pytest.approx(3.0)})
    assert found.mean_seconds() == {"a": pytest.approx(12 ** (1 / 3))}


def test_failures_stand_beside_times(path: Path) -> None:
    append_failure(path, "odd", 1, "no kernel for it")
    assert NetworkTimes.read(path).failures == {"odd": "no kernel for it"}


def test_the_command_writes_networks_and_measures_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    graphs, times = tmp_path / "set.graphs.jsonl", tmp_path / "times.jsonl"
    assert main(["--space", "mobilenet_v3_tiny", "--num", "2", "--write-graphs", str(graphs)]) == 0
    assert len(read_graphs(graphs)) == 2
    command = ["--graphs", str(graphs), "--out", str(times), "--passes", "3", "--visits", "1", "--budget", "0.1"]
    assert main(command) == 0
    assert "2 networks in 3 passes, whose even and odd ones differ by" in capsys.readouterr().out
    found = NetworkTimes.read(times)
    assert found.graphs == dict(sorted(read_graphs(graphs).items(), key=lambda item: list(found.graphs).index(item[0])))
    before = times.read_bytes()
    assert main(command) == 0
    assert times.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "no networks; name a space"),
        (["--space", "mobilenet_v3_tiny", "--num", "1"], "--out FILE says where"),
        (["--space", "mobilenet_v3_tiny", "--num", "0", "--out", "x"], "--num must be at least 1"),
        (["--graphs", "missing.graphs.jsonl", "--out", "x"], "missing.graphs.jsonl"),
    ],
)
def test_the_commands_mistakes_are_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
