"""Priors of other devices are learned, written, read back and shipped, and help where networks are few."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import network as dense_network

from predictors import (
    ClassPrior,
    Device,
    Graph,
    GraphBuilder,
    LatencyPredictor,
    calibrate,
    choose_networks,
    fit_prior,
    learn_class_prior,
    load_device,
    read_class_prior,
    write_class_prior,
)
from predictors.class_prior import _few
from predictors.class_terms import FLOAT, Term
from predictors.device import ClassEfficiency, MemoryLevel, Quantity
from predictors.paths import shipped
from predictors.rates import RatePrior
from predictors.validation.ncnn import SHEETS

BENCHMARK = Path(__file__).parents[3] / "shared" / "data" / "ncnn_benchmark"
DEVICE = load_device("mobile_cpu")
SHIPPED = ("ncnn_cpu", "ncnn_vulkan")


def network(width: int, depth: int, size: int) -> Graph:
    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 3, size, size)), width, kernel=3, stride=2), "relu")
    for _ in range(depth):
        y = builder.activation(builder.conv2d(x, width, kernel=3, groups=width), "relu")
        x = builder.elementwise("add", x, builder.conv2d(y, width, kernel=1))
    x = builder.linear(builder.flatten(builder.global_pool(x)), 10)
    return builder.graph(x, name=f"{width}x{depth}@{size}")


NETWORKS = [network(*size) for size in [(16, 1, 32), (32, 4, 64), (64, 2, 128), (96, 8, 32), (24, 12, 96), (48, 6, 48)]]
OTHERS = [network(*size) for size in [(40, 5, 72), (112, 7, 40), (20, 9, 160)]]


def simulated_device(slower: float) -> Device:
    """Devices that are all alike in what their file does not say: a tenth of the peak, nearly all of the bandwidth."""
    efficiency = ClassEfficiency(
        compute=0.1 / slower, read=0.9 / slower, write=0.9 / slower, fixed_s=1e-6 * slower, spread=0.1, source="made up"
    )
    return replace(DEVICE, efficiency={"float32": {"any": efficiency}})


def seconds(device: Device, graphs: list[Graph]) -> list[float]:
    predictor = LatencyPredictor(device, [])
    return [predictor.predict(graph).latency_s for graph in graphs]


def measured(slower: float, graphs: list[Graph] = NETWORKS) -> list[tuple[Graph, float]]:
    return list(zip(graphs, seconds(simulated_device(slower), graphs)))


@cache
def learned(num_centres: int = 2) -> ClassPrior:
    return learn_class_prior(
        [(DEVICE, measured(slower)) for slower in (0.7, 1.0, 2.0, 3.0, 8.0)],
        source="five made-up devices",
        num_centres=num_centres,
    )


# ---------------------------------------------------------------------------------------------------------- learning


def test_what_other_devices_reach_helps_a_new_one_of_which_three_networks_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    write_class_prior(path, learned())
    chosen = choose_networks(DEVICE, NETWORKS, 3, prior=path)
    few = [measured(5.0)[index] for index in chosen]
    truth_N = np.array(seconds(simulated_device(5.0), OTHERS))
    error, error_alone = (
        np.abs(np.array(seconds(calibrate(DEVICE, few, runtime=DEVICE.runtime, prior=prior), OTHERS)) / truth_N - 1.0)
        for prior in (str(path), None)
    )
    assert error.max() < 0.05
    assert error.mean() < 0.5 * error_alone.mean()


def test_a_network_counts_in_the_dtype_that_it_says() -> None:
    device = replace(DEVICE, peaks={**DEVICE.peaks, "int8": Quantity(value=2e11, source="made up")})
    times = [(graph, time, "int8" if index % 2 else None) for index, (graph, time) in enumerate(measured(1.0))]
    prior = learn_class_prior([(device, times)] * 3, source="one device thrice")
    assert {term.dtype for term in prior.terms if term.resource == "compute"} == {"float32", "int8"}


def test_devices_that_are_alike_become_one_centre_their_mean() -> None:
    centres_DT = np.array([[0.0, 0.0], [0.0, 0.2], [5.0, 5.0], [0.1, 0.1]])
    few_KT = _few(centres_DT, np.eye(2), 2)
    assert few_KT is not None
    assert sorted(few_KT.tolist()) == [pytest.approx([1 / 30, 0.1]), [5.0, 5.0]]


@pytest.mark.parametrize("count", [0, 3])
def test_there_are_no_centres_where_each_would_be_hardly_more_than_one_device(count: int) -> None:
    assert _few(np.arange(10.0).reshape(5, 2), np.eye(2), count) is None


def test_likeness_is_counted_in_what_devices_differ_by() -> None:
    # The second rate differs by 10 among devices, the first by 0.1: a step of 1 in the first is the larger one.
    few_KT = _few(np.array([[0.0, 0.0], [0.0, 3.0], [1.0, 0.0], [1.0, 1.0]]), np.diag([0.01, 100.0]), 2)
    assert few_KT is not None
    assert sorted(few_KT.tolist()) == [[0.0, 1.5], [1.0, 0.5]]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([measured(1.0)] * 2, "at least 3 devices, found 2"),
        ([measured(1.0), measured(2.0)[:2], measured(3.0)], "device 1 'mobile_cpu'.* at least 3 networks .* found 2"),
        ([measured(1.0), measured(2.0), [*measured(3.0), (NETWORKS[0], 0.0)]], "device 2 .* positive .* found 0.0 s"),
    ],
)
def test_too_little_to_learn_from_is_refused_with_what_was_found(
    devices: list[list[tuple[Graph, float]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learn_class_prior([(DEVICE, each) for each in devices], source="made up")


def test_a_prior_of_another_dtype_is_refused() -> None:
    device = replace(DEVICE, peaks={"float16": Quantity(value=2e11, source="made up")}, dtype="float16")
    with pytest.raises(ValueError, match=r"five made-up devices knows networks in \['float32'\], not in \['float16'\]"):
        calibrate(device, measured(1.0), runtime=DEVICE.runtime, prior=learned())


# -------------------------------------------------------------------------------------------------- writing, reading


@pytest.mark.parametrize("num_centres", [0, 2])
def test_a_prior_survives_being_written_to_three_digits_of_predictions(num_centres: int, tmp_path: Path) -> None:
    prior = learned(num_centres)
    write_class_prior(tmp_path / "mine.jsonl", prior)
    again = read_class_prior(tmp_path / "mine.jsonl")
    assert (again.terms, again.source) == (prior.terms, prior.source)
    assert num_centres == (0 if again.rates.centres_DT is None else len(again.rates.centres_DT))
    few = measured(1.5)[:4]
    predictions = [
        LatencyPredictor(calibrate(DEVICE, few, runtime=DEVICE.runtime, prior=each)).predict(OTHERS[0])
        for each in (prior, again)
    ]
    assert predictions[1].latency_s == pytest.approx(predictions[0].latency_s, rel=1e-3)
    assert predictions[1].std_s == pytest.approx(predictions[0].std_s, rel=1e-3)


def test_a_covariance_that_is_nearly_singular_stays_positive_definite(tmp_path: Path) -> None:
    # Rounded to four digits by itself every entry would be 1e4, which has a single eigenvalue that is not 0.
    terms = tuple(Term("float32", name, "bytes") for name in "abcde")
    rates = RatePrior(mean_T=np.zeros(5), covariance_TT=1e4 + 1e-2 * np.eye(5), noise=0.1)
    write_class_prior(tmp_path / "mine.jsonl", ClassPrior(terms=terms, rates=rates, source="made up"))
    again_TT = read_class_prior(tmp_path / "mine.jsonl").rates.covariance_TT
    assert np.linalg.eigvalsh(again_TT).min() > 1e-3
    assert again_TT == pytest.approx(rates.covariance_TT, rel=1e-3)


def test_a_prior_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("predictors.device_writing.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_class_prior(tmp_path / "mine.jsonl", learned())
    assert list(tmp_path.iterdir()) == []


def test_a_prior_is_not_written_where_it_would_not_be_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.jsonl"):
        write_class_prior(tmp_path / "mine.yaml", learned())
    with pytest.raises(ValueError, match="does not exist"):
        write_class_prior(tmp_path / "nowhere" / "mine.jsonl", learned())


Lines = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("damage", "line", "message"),
    [
        (lambda rows: rows[0].update(version=2), 1, "version 2; this release reads version 1"),
        (lambda rows: rows[0].pop("format"), 1, "no file of a prior"),
        (lambda rows: rows[0].pop("noise"), 1, "'noise' is missing"),
        (lambda rows: rows.pop(), 1, "the file has 16 terms, its header says 17"),
        (lambda rows: rows[3].update(factor=[1.0]), 4, "expected 3 finite numbers"),
        (lambda rows: rows[3].update(factor=[1.0, 1.0, 0.0]), 4, "must be positive"),
        (lambda rows: rows[3].update(mean="fast"), 4, r"expected 1 finite number, found \['fast'\]"),
        (lambda rows: rows[3].update(centres=[1.0, float("nan")]), 4, "expected 2 finite numbers"),
        (lambda rows: rows[3].update(centres=[1.0]), 4, "expected 2 finite numbers"),
        (lambda rows: rows[3].update(term=["float32", "conv2d", "joules"]), 4, "one of .*'kernels'"),
        (lambda rows: rows[3].update(colour="red"), 4, "unknown key 'colour'"),
    ],
)
def test_a_file_that_is_no_prior_is_refused_with_its_line(
    damage: Callable[[Lines], object], line: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    write_class_prior(path, learned())
    rows = [json.loads(each) for each in path.read_text().splitlines()]
    damage(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"mine\.jsonl:{line}: .*{message}"):
        read_class_prior(path)


def test_a_file_that_is_no_json_or_empty_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("rates: 3\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: not valid JSON"):
        read_class_prior(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: no file of a prior"):
        read_class_prior(path)


def test_an_unknown_name_says_which_there_are() -> None:
    for name in ("ncnn_gpu", "gpu"):  # configs/prior/gpu.jsonl is of another kind
        with pytest.raises(ValueError, match=rf"unknown prior '{name}'.*there are \['ncnn_cpu', 'ncnn_vulkan'\]"):
            read_class_prior(name)
    with pytest.raises(ValueError, match=r"'nowhere\.jsonl' does not exist"):
        calibrate(DEVICE, measured(1.0), prior="nowhere.jsonl")


# ----------------------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_prior_is_small_whole_and_says_whose_it_is(name: str) -> None:
    assert (shipped("prior") / f"{name}.jsonl").stat().st_size < 60e3
    prior = read_class_prior(name)
    assert "github.com/Tencent/ncnn (BSD-3-Clause)" in prior.source
    assert np.linalg.eigvalsh(prior.rates.covariance_TT).min() > 1e-3
    assert {term.dtype for term in prior.terms} == {"", FLOAT, "float32", "int8"}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.filterwarnings("ignore:networks that are left out lie", "ignore:the prior of .* is not used")
def test_with_a_shipped_prior_rates_are_positive_and_more_work_never_takes_less_time(name: str) -> None:
    found = calibrate(DEVICE, measured(2.0)[:4], runtime="ncnn", prior=name)
    for each in found.efficiency["float32"].values():
        assert min(each.compute, each.read, each.write, each.fixed_s) > 0.0
    by_width = seconds(found, [network(width, 4, 64) for width in (16, 32, 64, 128)])
    by_depth = seconds(found, [network(32, depth, 64) for depth in (2, 4, 8, 16)])
    assert by_width == sorted(by_width)
    assert by_depth == sorted(by_depth)


def test_of_classes_that_no_measured_network_has_the_shipped_prior_knows_more_than_the_devices_file() -> None:
    """A made-up board in the middle of what the CPUs reach. Dense 3x3 windows at stride 1, which run at over the peak
    of its file (Winograd), are only in networks that are not measured."""
    prior = read_class_prior("ncnn_cpu")
    number = Quantity(value=16 * 2e9, source=SHEETS["cpu"])
    memory = (MemoryLevel(name="dram", bandwidth=Quantity(value=8e9, source=SHEETS["cpu"])),)
    board = replace(DEVICE, peaks={"float32": number}, memory=memory, efficiency={}, fitted={}, runtime="ncnn")
    share = {term: float(np.exp(-mean)) for term, mean in zip(prior.terms, prior.rates.mean_T)}
    classes = {
        term.kernel_class: ClassEfficiency(
            compute=share.get(replace(term, resource="compute"), share[term]),
            read=share[term],
            write=share[term],
            fixed_s=1e-6 / share[replace(term, resource="kernels")],
            spread=0.1,
            source="made up",
        )
        for term in prior.terms
        if term.resource == "bytes" and term.dtype in ("float32", FLOAT)
    }
    truth = replace(board, efficiency={"float32": classes})
    times = list(zip(NETWORKS[:5], seconds(truth, NETWORKS[:5])))
    others = [dense_network(width, depth=8) for width in (32, 64, 128)]
    errors = [
        np.abs(
            np.array(seconds(calibrate(board, times, runtime="ncnn", prior=each), others)) / seconds(truth, others) - 1
        )
        for each in ("ncnn_cpu", None)
    ]
    assert errors[0].max() < 0.15
    assert errors[0].mean() < 0.5 * errors[1].mean()


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason="../shared/data/ncnn_benchmark is absent")
def test_the_shipped_prior_of_gpus_is_what_the_command_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ncnn_vulkan.jsonl"
    assert fit_prior.main([str(BENCHMARK), "--kind", "vulkan", "--write", str(path)]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    again, prior = read_class_prior(path), read_class_prior("ncnn_vulkan")
    assert again.source == prior.source
    assert again.rates.mean_T == pytest.approx(prior.rates.mean_T, abs=0.01)


def test_a_folder_without_the_benchmark_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_prior.main([str(tmp_path), "--kind", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "ncnn_bench.csv" in error
    assert error.count("\n") == 1
