from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated import network, usual_seconds

from predictors import Device, Graph, LookupTable, Measurement, TableHeader, fuse, load_device, load_runtime
from predictors.network_times import NetworkTime, NetworkTimes
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE
from predictors.validation.networks import (
    AGAIN,
    TimedNetwork,
    compare_measured,
    compare_networks,
    read_measured,
    split,
    table_note,
)

EAGER = load_runtime("torch_eager")
GRAPHS = {f"{width}x{depth}": network(width, depth) for width in (8, 16, 24, 32) for depth in (1, 3, 5, 8)}
HEADER = TableHeader(
    device="cpu_x86", runtime="torch_eager", runtime_version="1", dtype="float32", threads=1, date="2026-11-26",
    reference_kernel="none",
)  # fmt: skip


def device() -> Device:
    return load_device("cpu_x86")


def seconds(graph: Graph) -> float:
    return 1.1 * sum(usual_seconds(node.kernel) for node in fuse(graph, EAGER, "float32"))


def table(share: float = 1.0) -> LookupTable:
    kernels = sorted({node.kernel for graph in GRAPHS.values() for node in fuse(graph, EAGER, "float32")}, key=str)
    some = kernels[: int(share * len(kernels))]
    entries = {kernel: Measurement(latency_p50_s=usual_seconds(kernel), spread=0.01, num_runs=9) for kernel in some}
    return LookupTable(header=HEADER, entries=entries)


NETWORKS = [TimedNetwork(name=name, graph=graph, measured_s=seconds(graph)) for name, graph in GRAPHS.items()]


def compare(networks: list[TimedNetwork], calibration: list[TimedNetwork] | None = None):
    return compare_measured(
        "test", networks, device(), calibration=calibration or [], runtime="torch_eager", tables=[table()]
    )


# ------------------------------------------------------------------------------------------------------------- a CSV


def write(folder: Path, text: str) -> Path:
    path = folder / "my.csv"
    path.write_text(text)
    return path


def by_name(text: str, folder: Path) -> Graph:
    if text not in GRAPHS:
        raise ValueError(f"no network {text!r}")
    return GRAPHS[text]


def test_the_unit_is_that_of_the_columns_name(tmp_path: Path) -> None:
    in_seconds = read_measured(write(tmp_path, "network,seconds\n8x1,0.002\n8x3,0.004\n"), by_name)
    in_milliseconds = read_measured(write(tmp_path, "note,milliseconds, network\na,2,8x1\nb,4,8x3\n"), by_name)
    assert [each.measured_s for each in in_seconds] == [0.002, 0.004]
    assert [each.measured_s for each in in_milliseconds] == pytest.approx([0.002, 0.004])
    assert [each.name for each in in_milliseconds] == ["8x1", "8x3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network,latency\n8x1,2\n", r"needs the columns 'network' and one of \['seconds', 'milliseconds', "),
        ("network,seconds,milliseconds\n8x1,2,3\n", "and one of"),
        ("name,seconds\n8x1,2\n", r"found \['name', 'seconds'\]"),
        ("network,seconds\n", "has no rows"),
        ("network,seconds\n8x1,0.1\n8x3,fast\n", "my.csv:3: seconds is 'fast', which is no number"),
        ("network,seconds\n8x1,0\n", "my.csv:2: '8x1' took 0 seconds; a time is positive"),
        ("network,seconds\n8x1,-1\n", "my.csv:2: '8x1' took -1 seconds"),
        ("network,seconds\n8x1,nan\n", "my.csv:2: '8x1' took nan seconds"),
        ("network,milliseconds\n8x1,inf\n", "my.csv:2: '8x1' took inf milliseconds"),
        ("network,seconds\n8x1\n", "my.csv:2: '8x1' has no time"),
        ("network,seconds\n8x1,1\nnone,1\n", "my.csv:3: no network 'none'"),
    ],
)
def test_a_bad_csv_is_named_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_measured(write(tmp_path, text), by_name)


# -------------------------------------------------------------------------------------------------------- comparisons


def test_a_number_takes_the_first_and_a_pattern_those_it_fits() -> None:
    fitted, rest = split(NETWORKS, "4")
    assert [each.name for each in fitted] == ["8x1", "8x3", "8x5", "8x8"]
    assert fitted + rest == NETWORKS
    fitted, rest = split(NETWORKS, "*x3")
    assert [each.name for each in fitted] == ["8x3", "16x3", "24x3", "32x3"]
    assert len(rest) == 12


@pytest.mark.parametrize("chosen", ["2", "0", "17", "nothing*", "8x1"])
def test_too_few_or_too_many_for_calibration_are_refused(chosen: str) -> None:
    with pytest.raises(ValueError, match="calibration takes 3 to 16 networks of 16"):
        split(NETWORKS, chosen)


def test_ours_is_right_about_networks_whose_kernels_are_known() -> None:
    """All are 1.1 times the sum of their kernels, which calibration finds; without it all are a tenth too fast."""
    found = compare(NETWORKS[8:], NETWORKS[:8])
    assert found.scores()[OURS].mape < 0.01
    assert found.labels == [each.name for each in NETWORKS[8:]]
    assert compare(NETWORKS).scores()[OURS].mape == pytest.approx(1 - 1 / 1.1, abs=0.015)


def test_the_baselines_are_one_factor_fitted_on_the_same_networks() -> None:
    found = compare(NETWORKS[8:], NETWORKS[:8])
    factor = np.exp(np.mean([np.log(each.measured_s / each.graph.macs) for each in NETWORKS[:8]]))
    expected = [factor * each.graph.macs for each in NETWORKS[8:]]
    np.testing.assert_allclose(found.predicted_s_N[MACS_BASELINE], expected)
    bare_s_N = compare(NETWORKS).predicted_s_N[ROOFLINE_BASELINE]
    factor = np.exp(np.mean([np.log(each.measured_s / bare) for each, bare in zip(NETWORKS[:8], bare_s_N)]))
    np.testing.assert_allclose(found.predicted_s_N[ROOFLINE_BASELINE], factor * bare_s_N[8:])


def test_no_network_is_predicted_from_its_own_time() -> None:
    """Whatever a scored network took, its predictions stay the same, in each of the three ways."""
    for networks, calibration in ((NETWORKS[8:], NETWORKS[:8]), (NETWORKS[8:10], NETWORKS[:8]), (NETWORKS, [])):
        before = compare(networks, calibration)
        slower = replace(networks[-1], measured_s=3.0 * networks[-1].measured_s)
        after = compare([*networks[:-1], slower], calibration)
        for model in before.predicted_s_N:
            assert after.predicted_s_N[model][-1] == pytest.approx(before.predicted_s_N[model][-1], rel=1e-12)


def test_where_few_are_left_each_is_left_out_in_turn() -> None:
    found = compare(NETWORKS[8:10], NETWORKS[:8])
    assert len(found.measured_s_N) == 10
    assert "each left out in turn" in found.name


def test_times_in_another_unit_are_refused_with_the_likely_one() -> None:
    slipped = [replace(each, measured_s=1000 * each.measured_s) for each in NETWORKS]
    with pytest.raises(ValueError, match="are their times in milliseconds"):
        compare(slipped)
    with pytest.raises(ValueError, match=r"'8x1' took .* times as much as the others"):
        compare([slipped[0], *NETWORKS[1:]])


# ------------------------------------------------------------------------------------------------- the machine's own


def times(*factors: float) -> NetworkTimes:
    """A pass for each factor, which is how much slower it finds everything."""
    found = []
    for number, factor in enumerate(factors or (1.0, 1.02), start=1):
        for name, graph in GRAPHS.items():
            found.append(
                NetworkTime(
                    name=name, graph=graph, number=number, latency_p50_s=factor * seconds(graph), spread=0.0,
                    num_visits=1, reference_s=1.0,
                )
            )  # fmt: skip
    return NetworkTimes(header=HEADER, times=tuple(found), failures={})


def test_every_second_pass_stands_beside_the_models() -> None:
    found = compare_networks(times(), device(), calibration="8*", tables=[table()])
    scores = found.scores()
    assert scores[AGAIN].mape == pytest.approx(0.02)
    assert scores[OURS].mape == pytest.approx(0.01, abs=0.004)  # calibrated on the mean of both passes
    assert scores[OURS].count == scores[AGAIN].count == 12
    assert set(found.predicted_s_N) == {OURS, MACS_BASELINE, ROOFLINE_BASELINE, AGAIN}


def test_passes_are_told_apart_by_turns_and_averaged() -> None:
    found = compare_networks(times(1.0, 1.05, 1.21, 1.05), device(), calibration="8*", tables=[table()])
    np.testing.assert_allclose(found.measured_s_N, [1.1 * seconds(GRAPHS[name]) for name in found.labels])
    np.testing.assert_allclose(found.predicted_s_N[AGAIN], [1.05 * seconds(GRAPHS[name]) for name in found.labels])
    ours = found.predicted_s_N[OURS] / [seconds(GRAPHS[name]) for name in found.labels]
    np.testing.assert_allclose(ours, (1.1 * 1.05) ** 0.5, rtol=0.01)  # calibrated on the mean of all


def test_networks_of_calibration_are_not_scored() -> None:
    found = compare_networks(times(), device(), calibration="8*", tables=[table()])
    assert not any(name.startswith("8") for name in found.labels)


def test_one_pass_has_nothing_beside_the_models() -> None:
    one = replace(times(), times=times().times[: len(GRAPHS)])
    assert AGAIN not in compare_networks(one, device(), calibration="4", tables=[table()]).predicted_s_N


def test_the_note_counts_measured_kernels() -> None:
    text = table_note(times(), device(), [table(0.5)])
    count = len(table().entries)
    assert f"{count // 2} kernels measured, 50% of the {count} of these networks" in text


def test_a_file_without_times_is_refused() -> None:
    with pytest.raises(ValueError, match="networks of 0"):
        compare_networks(replace(times(), times=()), device(), tables=[table()])
