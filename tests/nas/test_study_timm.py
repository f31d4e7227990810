"""The study of published networks: what is read, traced, judged and written."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nas.compare.records import Estimate
from nas.studies import timm, timm_costs
from nas.studies.timm_costs import ATTENTION, DEPTHWISE, OTHER, PLAIN, TracedCosts
from nas.studies.timm_data import Published, read_networks
from nas.studies.timm_devices import BENCHMARKS, i9_10940x, rtx3090
from nas.studies.timm_judging import Judged, front_of, judge, log_price
from predictors import GraphBuilder, LatencyPredictor
from predictors.operators import MatMul

DATA = Path(__file__).parents[3] / "shared" / "data"
FILE = "benchmark.csv"
HEADER = (
    "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts"
)
BATCHES = {"rtx3090_nhwc": 64, "rtx3090_nchw": 32, "i9_10940x": 1}


def _network(name: str = "resnet18", resolution: int = 64, batch: int = 4, latency_s: float = 1e-3) -> Published:
    return Published(
        name=name,
        resolution=resolution,
        batch=batch,
        error=0.3,
        latency_s=latency_s,
        activations=float(latency_s),
        macs=1e9,
        in1k_error=0.3,
    )


def _write_benchmark(folder: Path) -> Path:
    """Of four networks: one toy, one without accuracy, one with accuracy at another resolution, one with all."""
    (folder / "timm_bench").mkdir()
    (folder / "timm_bench" / FILE).write_text(
        f"{HEADER}\n"
        "test_vit,160,1000,8.0,8.0,0.37,0.04,0.48\n"
        "nameless,224,1000,8.0,8,1,1,1\n"
        "other,256,1000,8.0,8,1,1,1\n"
        "known,224,500,16.0,8.0,1,1,2.5\n"
    )
    (folder / "timm_bench" / "results-imagenet.csv").write_text(
        "model,img_size,top1,top1_err\n"
        "test_vit.r160,160,40.0,60.0\nother.in1k,224,70,30\nknown.a1_in1k,224,75,25\nknown.in22k_ft_in1k,224,80,20\nknown.l,288,90,10\n"
    )
    return folder


def test_a_network_is_matched_by_name_and_resolution_with_its_best_weights_and_seconds_of_one_image(
    tmp_path: Path,
) -> None:
    networks, counts = read_networks(_write_benchmark(tmp_path), FILE)
    (known,) = networks
    assert (known.text, known.batch) == ("known@224", 8)
    assert known.error == pytest.approx(0.2)  # of 75, 80 and, at another resolution, 90 % top-1
    assert known.in1k_error == pytest.approx(0.25)  # the better one was trained on more
    assert known.latency_s == pytest.approx(16e-3 / 8)
    assert known.activations == 2.5e6
    assert list(counts.values()) == [4, 3, 2, 1, 1]


def test_a_folder_without_the_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*timm_bench.benchmark\.csv; --data names"):
        read_networks(tmp_path, FILE)


# Four networks, error and seconds. All but the last are on the true front. MACs swap the first two.
ERRORS = np.array([0.1, 0.2, 0.3, 0.3])
SECONDS = np.array([4.0, 2.0, 1.0, 3.0])


def test_the_true_front_costs_nothing_and_is_found_whole() -> None:
    (judged,) = judge(ERRORS, SECONDS, {"MACs": 7 * SECONDS}, "MACs", num_resamples=0)
    assert (judged.spearman.value, judged.kendall) == (pytest.approx(1.0), 1.0)
    assert (judged.precision.value, judged.recall.value, judged.price.value, judged.num_picked) == (1.0, 1.0, 1.0, 3)


def test_the_price_is_the_geometric_mean_of_seconds_at_the_accuracies_of_the_true_front() -> None:
    # The fourth network looks cheapest, so the front has it in place of the third, and the second is hidden behind the
    # first: of error 0.1 the least seconds are 4 (true 4), of 0.2 they are 4 (true 2), of 0.3 they are 3 (true 1).
    macs = np.array([5.0, 6.0, 7.0, 1.0])
    (judged,) = judge(ERRORS, SECONDS, {"MACs": macs}, "MACs", num_resamples=0)
    assert judged.num_picked == 2
    assert judged.price.value == pytest.approx((1.0 * 2.0 * 3.0) ** (1 / 3))
    assert judged.precision.value == pytest.approx(1 / 2)
    assert judged.recall.value == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_no_front_is_cheaper_than_the_true_one_and_only_the_order_of_costs_matters(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    errors, seconds, costs = rng.integers(1, 12, number) / 20, rng.uniform(1, 9, number), rng.uniform(1, 9, number)
    true, picked = front_of(errors, seconds), front_of(errors, costs)
    assert log_price(errors, seconds, picked, true) >= 0.0
    assert log_price(errors, seconds, true, true) == 0.0
    assert front_of(errors, costs**3).tolist() == picked.tolist()


def test_costs_that_are_the_same_do_not_differ_and_a_far_better_one_does() -> None:
    rng = np.random.default_rng(0)
    seconds = rng.uniform(1, 100, 200)
    errors = np.clip(0.5 - 0.08 * np.log(seconds) + rng.normal(0, 0.02, 200), 0.01, 0.9)
    noisy = seconds * np.exp(rng.normal(0, 0.8, 200))
    found = {
        each.cost: each
        for each in judge(errors, seconds, {"MACs": noisy, "same": noisy, "true": seconds}, "MACs", num_resamples=200)
    }
    same, true = found["same"], found["true"]
    assert same.price_ratio == Estimate(value=1.0, low=1.0, high=1.0)
    assert same.price_p == same.spearman_p == 1.0
    assert true.price_ratio.high < 1 < found["MACs"].price.low
    assert true.price_p == true.spearman_p == pytest.approx(2 * 2 / 201)  # no draw on the other side; two comparisons
    assert np.isnan(found["MACs"].price_p)


def test_families_are_told_by_what_networks_compute() -> None:
    def built(add: Callable[[GraphBuilder, int], int]) -> str:
        builder = GraphBuilder()
        x = builder.conv2d(builder.input((1, 3, 32, 32)), 16, kernel=3, stride=2)
        counts = timm_costs.layer_counts(builder.graph(add(builder, x)))
        return TracedCosts(question="q", network="n", batch=1, **counts).family

    def depthwise(builder: GraphBuilder, x: int) -> int:
        return builder.conv2d(x, 16, kernel=3, groups=16)

    def products(builder: GraphBuilder, x: int) -> int:
        y = builder.conv2d(x, 16, kernel=1)
        return builder.add(MatMul(left=builder.shape(x), right=builder.shape(y)), x, y)

    def pixels(builder: GraphBuilder, x: int) -> int:
        for _ in range(6):  # one window, the stem, of seven layers: 0.143 of them
            x = builder.conv2d(x, 16, kernel=1)
        return x

    def blurred(builder: GraphBuilder, x: int) -> int:
        for _ in range(2):  # one depthwise window of four
            x = builder.conv2d(x, 16, kernel=3)
        return builder.conv2d(x, 16, kernel=3, groups=16)

    assert built(lambda builder, x: builder.conv2d(x, 16, kernel=3)) == PLAIN
    assert built(blurred) == PLAIN
    assert built(depthwise) == DEPTHWISE
    assert built(products) == ATTENTION
    assert built(pixels) == OTHER


def test_costs_are_of_one_image_whatever_the_batch() -> None:
    predictor = LatencyPredictor(i9_10940x(), ())
    one, four = (
        timm_costs.costs_of(_network("mobilenetv3_small_050", 64, batch), "q", predictor, predictor) for batch in (1, 4)
    )
    assert not one.failed + four.failed
    assert one.family == DEPTHWISE
    assert (one.macs, one.num_params) == (four.macs, four.num_params)
    # Weights move once for all images of a batch: traffic = activations + weights / batch.
    weights = (one.traffic_bytes - four.traffic_bytes) / (1 - 1 / 4)
    assert weights == pytest.approx(4 * one.num_params, rel=0.05)  # batch norms fold
    assert one.transferred_s == one.calibrated_s > one.roofline_s > four.roofline_s > 0


def test_a_network_that_fails_says_why_and_one_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = LatencyPredictor(i9_10940x(), ())
    failed = timm_costs.costs_of(_network("no_such_network"), "q", predictor, predictor)
    assert "timm has no 'no_such_network'" in failed.failed
    monkeypatch.setattr(timm_costs, "LIMIT_S", 0.05)
    monkeypatch.setattr(timm_costs, "trace_network", lambda network: time.sleep(5))
    assert timm_costs.costs_of(_network(), "q", predictor, predictor).failed == "took more than 0.05 s"


def _pretend(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is traced: costs follow from the name; in this process. Returns the names that were asked for."""
    asked: list[str] = []

    def costs_of(network: Published, question: str, *_: object) -> TracedCosts:
        asked.append(network.text)
        number = sum(map(ord, network.text))
        return TracedCosts(
            question=question,
            network=network.text,
            batch=network.batch,
            failed="" if number % 10 else "it has no forward",
            num_layers=1,
            num_windows=1,
            num_products=number % 2,
            macs=number,
            num_params=number % 100,
            traffic_bytes=1e3 * network.latency_s,
            arithmetic_intensity=number % 7,
            roofline_s=0.3 * network.latency_s,
            transferred_s=network.latency_s * (1 + number % 3),
            calibrated_s=network.latency_s,
        )

    def run_all(work: Sequence[Callable[[], object]], jobs: int) -> None:
        for each in work:
            each()

    monkeypatch.setattr(timm_costs, "costs_of", costs_of)
    monkeypatch.setattr(timm_costs, "run_all", run_all)
    monkeypatch.setattr(timm_costs, "calibrated_with", lambda few, device: device)
    return asked


def test_what_is_traced_is_not_traced_again_unless_something_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _pretend(monkeypatch)
    path, device = tmp_path / "outputs" / "costs.jsonl", i9_10940x()
    networks = [_network(f"net{number}") for number in range(30)]
    timm_costs.traced_costs("i9", networks[:25], networks[:3], device, path)
    torn = path.read_bytes()
    path.write_bytes(torn[:-20])  # killed while it wrote the last one
    asked.clear()
    with pytest.warns(UserWarning, match="the last line is torn"):
        found = timm_costs.traced_costs("i9", networks, networks[:3], device, path)
    assert sorted(asked) == sorted(f"net{number}@64" for number in range(24, 30))
    assert list(found) == [each.text for each in networks]
    asked.clear()
    timm_costs.traced_costs("i9", networks[:2], networks[:4], device, path)  # calibrated with others
    assert len(asked) == 2


def _write_many(folder: Path, number: int = 90) -> None:
    (folder / "timm_bench").mkdir()
    rng = np.random.default_rng(1)
    seconds = np.exp(rng.uniform(-7, -2, number))
    tops = np.clip(85 + 4 * np.log(seconds) + rng.normal(0, 2, number), 10, 95)
    for benchmark in BENCHMARKS.values():
        batch = BATCHES[benchmark.name]
        lines = [
            f"net{index},224,{1 / each},{1e3 * each * batch},{batch},1,1,{1 + index}"
            for index, each in enumerate(seconds)
        ]
        (folder / "timm_bench" / benchmark.file).write_text("\n".join([HEADER, *lines]) + "\n")
    lines = [f"net{index}.a1_in1k,224,{top}" for index, top in enumerate(tops)]
    (folder / "timm_bench" / "results-imagenet.csv").write_text("\n".join(["model,img_size,top1", *lines]) + "\n")


def _options(folder: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    timm.add_arguments(parser.add_subparsers())
    places = ["--data", folder, "--costs", folder / "costs.jsonl", "--docs", folder / "docs"]
    return parser.parse_args(
        ["timm", *map(str, places), *words], argparse.Namespace(command="python -m nas.studies timm")
    )


def test_the_study_prints_and_writes_sentences_tables_and_a_picture_without_any_network_s_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pretend(monkeypatch)
    monkeypatch.setattr(timm, "NUM_RESAMPLES", 40)
    _write_many(tmp_path)
    options = _options(tmp_path)
    options.run(options, Console(width=300))
    printed = capsys.readouterr().out
    text = (tmp_path / "docs" / "timm.md").read_text(encoding="utf-8")
    # Traffic is what was measured here, and comes first of those that are.
    assert "those picked by traffic take 1.00 (1.00 to 1.00) times as long as the true front" in printed
    for title in ("an RTX 3090 (float16, channels last", "an i9-10940X"):
        assert f"On {title}" in text
    assert "p = 0." in text
    assert "<!-- by hand: what it means -->" in text
    assert "it has no forward" in text
    assert (tmp_path / "docs" / "timm" / "fronts.png").stat().st_size > 10_000
    written = [path.read_text(encoding="utf-8") for path in (tmp_path / "docs").rglob("*.csv")]
    assert len(written) == 6
    assert not any("net1" in each for each in (*written, text))


def test_too_few_networks_or_processes_are_refused(tmp_path: Path) -> None:
    for words, message in (
        (("--networks", "5"), "--networks must be at least 40, found 5"),
        (("--jobs", "0"), "--jobs must be at least 1, found 0"),
    ):
        options = _options(tmp_path, *words)
        with pytest.raises(ValueError, match=message):
            options.run(options, Console())


def _judged(value: float, low: float, high: float, p: float) -> Judged:
    one = Estimate(value=1.0, low=1.0, high=1.0)
    return Judged(
        cost="traffic",
        spearman=one,
        kendall=1.0,
        num_picked=1,
        precision=one,
        recall=one,
        price=one,
        spearman_gain=Estimate(value=value - 1, low=low - 1, high=high - 1),
        price_ratio=Estimate(value=value, low=low, high=high),
        spearman_p=p,
        price_p=p,
    )


def test_a_difference_is_claimed_only_where_the_interval_and_the_test_agree() -> None:
    less = timm._beside_macs(_judged(0.89, 0.85, 0.93, 0.01), "X")
    assert "take 11% (7% to 15%) less time at equal accuracy than those picked by MACs (p = 0.010)" in less
    more = timm._beside_macs(_judged(1.2, 1.1, 1.3, 0.01), "X")
    assert "take 20% (10% to 30%) more time" in more
    for doubtful in (_judged(0.89, 0.85, 0.93, 0.2), _judged(0.89, 0.85, 1.01, 0.01)):
        assert "no difference was found" in timm._beside_macs(doubtful, "X")
        ranks = timm._ranks_sentence(doubtful, doubtful, "X")
        assert "neither more like activations nor like MACs" in ranks


def test_both_devices_say_where_every_number_comes_from() -> None:
    for device, ridge in ((rtx3090(), 71e12 / 936.2e9), (i9_10940x(), 14 * 3.3e9 * 64 / 94e9)):
        assert device.ridge_point() == pytest.approx(ridge)
        assert all(device.sources().values())


@pytest.mark.skipif(not (DATA / "timm_bench").is_dir(), reason="needs timm_bench in ../shared/data")
def test_about_a_thousand_published_networks_have_accuracy_and_latency_at_one_resolution() -> None:
    for benchmark in BENCHMARKS.values():
        networks, counts = read_networks(DATA, benchmark.file)
        assert 1000 < len(networks) == counts["with counted activations"] < counts["with a published accuracy"]
        assert len({each.text for each in networks}) == len(networks)
        assert 0.09 < min(each.error for each in networks) < max(each.error for each in networks) < 0.6
        assert 1e-5 < min(each.latency_s for each in networks) < max(each.latency_s for each in networks) < 10
