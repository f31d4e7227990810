"""The claims: verdicts by rules, experiments that differ in one thing, and what made-up measurements say."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.compare.records import Estimate
from nas.studies.__main__ import main
from nas.studies.claims import MEASUREMENTS, convolutions, experiments, machines, networks
from nas.studies.claims.measure import ALL, measure
from nas.studies.claims.quantised import QuantisedAddition, QuantisedChain, chain_bytes
from nas.studies.claims.records import (
    DEVICE,
    Machine,
    Measurements,
    Record,
    read_measurements,
    summary,
    write_measurements,
)
from nas.studies.claims.study import CLAIMS, chosen, findings, parts_of
from nas.studies.claims.verdicts import (
    CONFIRMED,
    MIXED,
    NOT_TESTABLE,
    REFUTED,
    UNDECIDED,
    Finding,
    Rule,
    bootstrap,
    by_device,
    overall,
    share,
)
from nas.studies.document import Table, write_study
from predictors.fusion import fuse, load_runtime
from predictors.graph import GraphBuilder

DATA = Path("../shared/data")
DOCS = Path("docs/studies/data")
needs_tables = pytest.mark.skipif(not DATA.is_dir(), reason="needs the tables of ../shared/data")
figures = st.floats(-10.0, 10.0)


def estimate(value: float, low: float = nan, high: float = nan) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def finding(verdict: str, device: str) -> Finding:
    return Finding(
        claim="padding", device=device, group="", figure=estimate(1.0), num_values=3, verdict=verdict
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (estimate(1.10, 1.06, 1.20), CONFIRMED),
        (estimate(1.10, 0.99, 1.20), UNDECIDED),  # its interval reaches what refutes
        (estimate(1.03, 1.02, 1.04), UNDECIDED),  # between the two
        (estimate(0.99, 0.90, 1.04), REFUTED),
        (estimate(0.99, 0.90, 1.06), UNDECIDED),
        (estimate(1.10), CONFIRMED),  # no interval is known
        (estimate(nan), NOT_TESTABLE),
    ],
)
def test_a_verdict_follows_from_the_figure_and_its_interval(figure: Estimate, verdict: str) -> None:
    assert Rule(confirmed=1.05, refuted=1.0).verdict(figure) == verdict


@given(st.tuples(figures, figures, figures), figures, figures)
def test_a_rule_turned_around_says_of_the_negative_figure_what_it_says_of_the_figure(
    values: tuple[float, float, float], confirmed: float, refuted: float
) -> None:
    low, value, high = sorted(values)
    rule, turned = Rule(confirmed=confirmed, refuted=refuted), Rule(confirmed=-confirmed, refuted=-refuted)
    if confirmed != refuted:
        assert rule.verdict(estimate(value, low, high)) == turned.verdict(estimate(-value, -high, -low))


def test_a_claim_needs_two_devices_that_decide_it() -> None:
    assert overall([finding(CONFIRMED, "a"), finding(CONFIRMED, "a")]) == NOT_TESTABLE
    assert overall([finding(CONFIRMED, "a"), finding(NOT_TESTABLE, "b")]) == NOT_TESTABLE
    assert overall([finding(CONFIRMED, "a"), finding(UNDECIDED, "b")]) == NOT_TESTABLE
    assert overall([finding(CONFIRMED, "a"), finding(CONFIRMED, "b"), finding(UNDECIDED, "c")]) == CONFIRMED
    assert overall([finding(REFUTED, "a"), finding(REFUTED, "b"), finding(NOT_TESTABLE, "c")]) == REFUTED


def test_four_fifths_of_the_devices_that_decide_have_to_agree() -> None:
    four = [finding(CONFIRMED, name) for name in "abcd"]
    assert overall([*four, finding(REFUTED, "e")]) == CONFIRMED  # 4 of 5
    assert overall([*four[:3], finding(REFUTED, "e")]) == MIXED  # 3 of 4
    assert overall([*3 * [finding(CONFIRMED, "a")], finding(REFUTED, "b")]) == MIXED  # a device counts once


def test_a_device_contradicts_itself_or_is_undecided() -> None:
    both = [finding(CONFIRMED, "a"), finding(REFUTED, "a")]
    half = [finding(CONFIRMED, "b"), finding(UNDECIDED, "b")]
    third = [finding(CONFIRMED, "c"), *2 * [finding(UNDECIDED, "c")]]
    found = by_device([*both, *half, *third, finding(NOT_TESTABLE, "d")])
    assert found == {"a": MIXED, "b": CONFIRMED, "c": UNDECIDED}


def test_an_interval_of_few_values_is_wide_and_that_of_two_is_not_known() -> None:
    values_K = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    found = bootstrap(lambda drawn: float(np.median(values_K[drawn])), 5)
    assert (found.value, found.low, found.high) == (3.0, 1.0, 100.0)
    assert np.isnan(bootstrap(lambda drawn: 1.0, 2).value)
    assert np.isnan(share(0, 0).value)


# ------------------------------------------------------------------------------------------------- tables of networks


def table(seconds_N: np.ndarray, macs_N: np.ndarray, traffic_N: np.ndarray) -> networks.Table:
    return networks.Table(
        device="made up", source="made up", compute=networks._LARGE, macs_N=macs_N, traffic_bytes_N=traffic_N,
        seconds_N=seconds_N,
    )  # fmt: skip


def test_what_the_latency_follows_shows_in_the_difference_of_correlations() -> None:
    rng = np.random.default_rng(0)
    macs_N, traffic_N = rng.random(200), rng.random(200)
    by_macs, _ = networks._difference(table(macs_N**2, macs_N, traffic_N))
    by_traffic, note = networks._difference(table(np.sqrt(traffic_N), macs_N, traffic_N))
    assert by_macs.high < -0.8
    assert by_traffic.low > 0.8
    assert "traffic 1.000" in note
    assert networks.RULED_BY_MACS.verdict(by_macs) == networks.RULED_BY_TRAFFIC.verdict(by_traffic) == CONFIRMED
    assert networks.RULED_BY_MACS.verdict(by_traffic) == networks.RULED_BY_TRAFFIC.verdict(by_macs) == REFUTED


def test_of_pairs_with_equal_macs_only_those_that_differ_are_counted() -> None:
    macs_N = np.repeat(np.arange(1.0, 11.0), 2)  # ten pairs
    traffic_N = np.tile([1.0, 2.0], 10)
    merit_N = np.log(macs_N / traffic_N)
    faster, count = networks._pairs(table(traffic_N, macs_N, traffic_N), merit_N)
    assert (faster.value, count) == (1.0, 10)
    slower, _ = networks._pairs(table(1.0 / traffic_N, macs_N, traffic_N), merit_N)
    assert slower.value == 0.0
    assert networks._pairs(table(macs_N, macs_N, traffic_N), merit_N)[1] == 0  # all equally fast
    apart_N = np.arange(1.0, 21.0)
    assert networks._pairs(table(traffic_N, apart_N, traffic_N), traffic_N)[1] == 0  # no pair has equal MACs


@needs_tables
def test_tables_hold_what_was_measured_in_three_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "NUM_NETWORKS", 12)
    found = list(networks._help_tables(DATA))
    assert not {each.device for each in found} & {"eyeriss", "fpga"}
    assert {each.source.partition(",")[0] for each in found} == {"NAS-Bench-201", "FBNet space", "OFA-MobileNetV3"}
    assert all(len(each.macs_N) == len(each.seconds_N) <= 12 for each in found)
    one, many = (
        next(e for e in found if e.source == f"OFA-MobileNetV3, batch {n}" and e.device == "V100") for n in (1, 32)
    )
    assert np.allclose(32 * one.macs_N, many.macs_N)
    assert (many.traffic_bytes_N < 32 * one.traffic_bytes_N).all()  # weights are read once


@needs_tables
def test_large_sums_reach_what_memory_gives_on_every_gpu() -> None:
    found = convolutions.bandwidth_of_tables(DATA)
    assert {each.device for each in found} == {"P4", "T4", "P100", "V100", "A100"}
    assert all(each.verdict == CONFIRMED and each.figure.value <= 1.05 for each in found)


# ------------------------------------------------------------------------------------------------------- convolutions


@pytest.mark.parametrize(("within", "expected"), [(0.0, 0.0), (1.0, 1.0), (-0.5, -0.5)])
def test_padded_channels_show_in_the_elasticity_of_time(within: float, expected: float) -> None:
    works_P = np.log([0.5, 0.7, 0.9, 0.6])
    aligned_P2 = np.stack([works_P, works_P], axis=1)  # proportional
    figure, _ = convolutions.elasticity_share(np.stack([works_P, within * works_P], axis=1), aligned_P2)
    assert figure.value == pytest.approx(expected)


def test_where_time_hardly_depends_on_work_padding_cannot_be_told() -> None:
    works_P = np.log([0.5, 0.7, 0.9])
    flat_P2 = np.stack([works_P, 0.1 * works_P], axis=1)
    assert np.isnan(convolutions.elasticity_share(flat_P2, flat_P2)[0].value)


def test_windows_are_compared_within_their_group_only() -> None:
    groups = [{3: 4.0, 5: 2.0}, {3: 6.0, 7: 2.0}, {1: 1.0, 5: 1.0}, {3: 100.0}, {5: 100.0}]
    figure, count, note = convolutions.window_ratio(groups)
    assert (figure.value, count) == (pytest.approx(2.0), 3)  # of 2, 3 and 1
    assert note == "1x1 over 5x5: 1.00, 3x3 over 5x5: 2.00, 3x3 over 7x7: 3.00"


# -------------------------------------------------------------------------------------------------------- experiments


def test_experiments_of_equal_macs_have_equal_macs() -> None:
    assert {case.graph.macs for case in experiments.equal_macs(2)} == {2 * experiments.MACS_A_PIXEL * 28 * 28}
    for family in {case.family for case in experiments.depth(1)}:
        macs = {case.graph.macs for case in experiments.depth(1) if case.family == family}
        assert len(macs) == 1, family


def test_padding_has_both_channels_that_are_multiples_and_their_neighbours() -> None:
    channels = [case.facts["channels"] for case in experiments.padding(1)]
    assert {23, 24, 63, 64} <= set(channels)
    assert len(channels) == 2 * len(set(channels))
    (case,) = (each for each in experiments.padding(1) if each.family.startswith("3x3") and each.name == "24")
    assert case.graph.macs == 9 * 24 * 24 * 28 * 28


def test_a_batch_norm_that_follows_a_convolution_folds_and_one_behind_relu_does_not() -> None:
    graphs = {case.name: case.graph for case in experiments.fusion(1, (3,))}
    rules = load_runtime("onnxruntime")
    counts = {name: len(fuse(graphs[name], rules, "float32")) for name in ("conv_bn_relu", "conv_relu_bn")}
    assert counts == {"conv_bn_relu": 1, "conv_relu_bn": 2}
    followers = {name for each in experiments.ALONE.values() for name in each}
    assert followers <= set(graphs)


def test_a_chain_converts_only_where_it_is_told() -> None:
    graph = next(iter(experiments.low_precision(1))).graph

    def kinds(in_int8: list[bool], *, through_floats: bool = False) -> Counter[str]:
        model = onnx.load_from_string(chain_bytes(graph, in_int8, through_floats=through_floats))
        return Counter(node.op_type for node in model.graph.node)

    assert kinds([True] * 4) == {"QLinearConv": 4}
    assert kinds([False] * 4) == {"Conv": 4}
    assert kinds([True] * 4, through_floats=True) == {"QuantizeLinear": 4, "QLinearConv": 4, "DequantizeLinear": 4}
    assert kinds([True, False] * 2) == {"QLinearConv": 2, "Conv": 2, "DequantizeLinear": 2, "QuantizeLinear": 1}
    with pytest.raises(ValueError, match="a chain of 3 convolutions"):
        chain_bytes(graph, [True] * 3)


def test_a_convolution_in_float32_between_conversions_is_not_quantised_after_all() -> None:
    """ONNX Runtime would turn it into int8, weights and all; then 'mixed' would be nothing but int8."""
    builder = GraphBuilder()
    x = builder.input((1, 8, 6, 6))
    for _ in range(3):
        x = builder.conv2d(x, 8, kernel=1, bias=True)
    chain = QuantisedChain(builder.graph(x), [True, False, True])
    session = chain._bound._session
    assert session.get_session_options().get_session_config_entry("session.disable_quant_qdq") == "1"
    chain.run()
    QuantisedAddition((1, 8, 4, 4)).run()


# -------------------------------------------------------------------------------------------------- made-up machines


def machine(processor: str = "cpu") -> Machine:
    return Machine(
        processor=processor, name="made up", threads=1, num_visits=5, date="2026-11-26", versions={"torch": "2"},
        peaks={"float32": 1e11, "float16": 2e11}, bandwidths={"1000": 1e11, "1000000": 1e10},
    )  # fmt: skip


def records(experiment: str, seconds: Mapping[str, float], **fields: object) -> tuple[Record, ...]:
    base = Record(
        experiment=experiment, family="f", name="", runtime="torch_compile", dtype="float32", what=DEVICE,
        macs=1000, traffic_bytes=1000, latency_p50_s=1.0, spread=0.001,
    )  # fmt: skip
    return tuple(replace(base, name=name, latency_p50_s=each, **fields) for name, each in seconds.items())  # type: ignore[arg-type]


def only_finding(claim: str, *found: Record) -> Finding:
    (told,) = (
        each for each in machines.findings_of(Measurements(machine=machine(), records=found)) if each.claim == claim
    )
    return told


def test_what_fused_operators_leave_of_their_own_time_is_told() -> None:
    """relu takes 0.5 alone. Added to the convolution it takes nothing, or all of it."""
    free = only_finding("fused_is_free", *records("fusion", {"conv": 1.0, "relu": 0.5, "conv_relu": 1.0}))
    assert free.figure.value == pytest.approx(0.0)
    assert free.verdict == CONFIRMED
    paid = only_finding("fused_is_free", *records("fusion", {"conv": 1.0, "relu": 0.5, "conv_relu": 1.5}))
    assert paid.figure.value == pytest.approx(1.0)
    assert paid.verdict == REFUTED


def test_the_order_of_batch_norm_and_relu_is_told_where_a_runtime_fuses() -> None:
    found = records("fusion", {"conv_bn_relu": 1.0, "conv_relu_bn": 1.2})
    told = only_finding("fusion_order", *found)
    assert told.figure.value == pytest.approx(1.2)
    assert told.verdict == CONFIRMED
    eager = tuple(replace(each, runtime="torch_eager") for each in found)
    assert not machines.findings_of(Measurements(machine=machine(), records=eager))


def test_depth_is_the_deepest_over_the_shallowest() -> None:
    deep, shallow = records("depth", {"deep": 3.0, "shallow": 2.0})
    told = only_finding(
        "depth_at_equal_macs", replace(deep, facts={"layers": 64}), replace(shallow, facts={"layers": 4})
    )
    assert told.figure.value == pytest.approx(1.5)
    assert told.verdict == CONFIRMED


def test_layers_in_turn_are_held_against_the_mean_of_both_precisions() -> None:
    found = records("precision_change", {"high": 3.0, "low": 1.0, "mixed": 2.5}, dtype="float16")
    told = only_finding("precision_change", *found)
    assert told.figure.value == pytest.approx(1.25)
    assert told.verdict == CONFIRMED


def test_the_gain_of_low_precision_is_split_at_the_measured_ridge_point() -> None:
    """The ridge point is 10 FLOP per byte. 2 * 1000 / 1000 = 2 is bound by memory, 2 * 10000 / 1000 = 20 is not."""
    memory = [*records("low_precision", {"uniform": 4.0}, family="m")]
    memory += records("low_precision", {"uniform": 1.0}, family="m", dtype="float16")
    compute = [*records("low_precision", {"uniform": 2.0}, family="c", macs=10_000)]
    compute += records("low_precision", {"uniform": 1.0}, family="c", macs=10_000, dtype="float16")
    told = only_finding("int8_by_traffic", *memory, *compute)
    assert told.figure.value == pytest.approx(2.0)
    assert told.verdict == CONFIRMED
    alone = only_finding("int8_by_traffic", *memory)
    assert alone.verdict == NOT_TESTABLE


def test_bandwidth_is_held_against_plain_passes_at_the_largest_size() -> None:
    """1000 bytes in 1 s beside 1000 in 0.5 s: half of it. The smaller size counts for nothing."""
    names = {"relu": 1.0, "add": 1.0, "concat": 1.0}
    large, small = {"facts": {"float32_bytes": 9}}, {"facts": {"float32_bytes": 1}, "family": "small"}
    found = records("bandwidth", names, **large) + records("bandwidth", dict.fromkeys(names, 0.1), **small)
    found += records("bandwidth", {"copy": 0.8, "accumulate": 0.5}, runtime="passes", **large)
    told = only_finding("bandwidth", *found)
    assert told.figure.value == pytest.approx(0.5)
    assert told.verdict == REFUTED


def test_windows_are_held_against_the_roofline() -> None:
    """Both take ten times what the roofline says, though their FLOP/s differ 100-fold."""
    rate = 2.0 / 1e11
    slow, fast = records("common", {"3x3/1": 10 * 1e-8, "5x5/1": 10 * rate * 100_000})
    found = (
        replace(slow, macs=10, traffic_bytes=1000, facts={"kernel": 3, "stride": 1}),  # bound by 1000 bytes: 1e-8 s
        replace(fast, macs=100_000, facts={"kernel": 5, "stride": 1}),
    )
    told = only_finding("common_windows", *found)
    assert told.note == "3x3 over 5x5: 1.00"
    assert told.verdict == NOT_TESTABLE  # of one pair no interval is known


# ------------------------------------------------------------------------------------------------------ measurements


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    found = Measurements(machine=machine(), records=records("depth", {"a": 1.25e-3}, facts={"layers": 4}))
    write_measurements(tmp_path / "m.jsonl", found)
    again = read_measurements(tmp_path / "m.jsonl")
    assert (again.machine, again.records) == (found.machine, found.records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"kind": "other"}\n', "line 1: no measurement of the claims: the first line is no header"),
        ("nonsense\n", "line 1"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_measurements(path)


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_measurements(path, Measurements(machine=machine(), records=records("depth", {"a": 1.0})))
    path.write_text(path.read_text().strip()[:-5] + "\n")
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2: no measurement of the claims"):
        read_measurements(path)


def test_a_single_visit_has_no_spread() -> None:
    assert np.isnan(summary([1.0])[1])
    assert summary([2.0, 2.0, 2.0]) == (2.0, 0.0)


def test_an_experiment_is_measured_and_its_claims_are_told(tmp_path: Path) -> None:
    path = tmp_path / "cpu.jsonl"
    found = measure("cpu", path, only=["precision_change"], visits=2)
    assert {(each.runtime, each.name) for each in found.records} == {
        (runtime, name) for runtime in ("onnxruntime", "torch_eager") for name in ("high", "low", "mixed")
    }
    assert all(0.0 < each.latency_p50_s < inf for each in found.records)
    told = machines.findings_of(read_measurements(path))
    assert Counter(each.claim for each in told) == {"precision_change": 6}


def test_out_of_time_leaves_cases_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measure("cpu", tmp_path / "cpu.jsonl", only=["precision_change"], budget_s=-1.0, visits=2)
    assert not found.records
    assert "18 of 18 cases are left out" in capsys.readouterr().out


def test_an_unknown_experiment_and_a_missing_gpu_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown experiments \['speed'\]; those that are measured are \['padding'"):
        measure("cpu", tmp_path / "m.jsonl", only=["speed"])
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds none with CUDA"):
            measure("cuda", tmp_path / "m.jsonl")


def test_measuring_imports_nothing_that_a_bare_machine_lacks() -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxruntime', 'openvino', 'matplotlib', 'plotly', 'optuna', 'hydra'):\n"
        "    sys.modules[name] = None\n"
        "import nas.studies.claims.measure"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_shipped_measurements_are_whole_and_say_nothing_of_whose_machine_it_was(name: str) -> None:
    path = DOCS / name
    if not path.is_file():
        pytest.skip(f"{path} is not shipped")
    found = read_measurements(path)
    assert {each.experiment for each in found.records} == set(ALL) - {"peaks", "fusion_compiled"}
    assert {"float32", "int8"} <= set(found.machine.peaks)
    assert path.stat().st_size < 60_000
    assert "/home" not in path.read_text()
    assert "/work" not in path.read_text()


# --------------------------------------------------------------------------------------------------------- the study


def test_every_finding_belongs_to_a_claim_with_its_rule() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    with pytest.raises(ValueError, match=r"unknown claims \['magic'\]; those that are tested are \['macs_on_small'"):
        chosen(["magic"])
    assert [claim.name for claim in chosen(["padding", "bandwidth", "padding"])] == ["padding", "bandwidth"]


def test_the_document_holds_a_table_of_verdicts_and_a_table_a_claim(tmp_path: Path) -> None:
    one = Measurements(machine=machine(), records=records("fusion", {"conv_bn_relu": 1.0, "conv_relu_bn": 1.2}))
    two = replace(one, machine=replace(machine(), name="another"))
    claims = chosen(["fusion_order", "precision_change"])
    found = findings(claims, tmp_path, [one, two])
    parts = parts_of(claims, found, [one, two])
    assert parts[0] == "Of 2 claims: 1 confirmed, 0 refuted, 0 mixed, 1 not testable."
    names = [part.name for part in parts if isinstance(part, Table)]
    assert names == ["claims", "fusion_order"]
    text = write_study("claims", "Claims", "python -m nas.studies claims", (), parts, tmp_path).read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| Conv->BN->ReLU fuses"))
    assert "| confirmed | confirmed: made up (1 thread), another (1 thread) | 2 / 0 / 0 | 1.2 (1.2 to 1.2) |" in row
    assert "at least 1.05 confirms, at most 1.02 refutes" in text


def test_a_missing_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--data", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("nas.studies: no folder ")


def test_only_some_claims_are_printed_and_no_document_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.jsonl"
    found = Measurements(machine=machine(), records=records("fusion", {"conv_bn_relu": 1.0, "conv_relu_bn": 1.2}))
    write_measurements(path, found)
    arguments = ["--data", str(tmp_path), "--docs", str(tmp_path / "docs"), "--measurements", str(path)]
    assert main(["claims", "--only", "fusion_order", *arguments]) == 0
    assert not (tmp_path / "docs").exists()
    assert "torch_compile" in capsys.readouterr().out
