"""Studies: their documents, and what they compare."""

import csv
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up_comparison import made_up
from matplotlib.figure import Figure
from rich.console import Console

from nas.benchmark.nasbench201 import Benchmark
from nas.compare.records import Chosen, Comparison, Estimate, Strategy
from nas.compare.report import headline
from nas.compare.report.wording import signed_percent_text
from nas.export import input_shape
from nas.studies import devices, digits, nasbench201, ofa
from nas.studies.__main__ import main
from nas.studies.devices import Route, compared, counted_sentence, parts_of
from nas.studies.document import ByHand, Picture, Table, write_study
from nas.task import SearchTask
from predictors.device import load_device
from predictors.latency import LatencyPredictor
from search_spaces.loading import load_space
from search_spaces.space import Arch

ROWS = [
    {"device": "v100 | eager", "gain": Estimate(value=0.11, low=0.07, high=0.15), "networks": 1234, "p": 0.03125},
    {"device": "raspi4", "gain": Estimate(value=-0.01, low=float("nan"), high=float("nan")), "networks": 5, "p": None},
]


def written(folder: Path, *parts: object, seeds: tuple[int, ...] = (0, 1, 2)) -> str:
    path = write_study("toy", "Does it pay?", "python -m nas.studies toy", seeds, parts, folder)  # type: ignore[arg-type]
    assert path == folder / "toy.md"
    return path.read_text(encoding="utf-8")


def test_a_document_says_what_wrote_it_when_with_which_versions_and_seeds(tmp_path: Path) -> None:
    text = written(tmp_path, "It does.")
    assert text.startswith("# Does it pay?\n\n* Written by `python -m nas.studies toy`;")
    assert re.search(
        r"\* 20\d\d-\d\d-\d\d \d\d:\d\d UTC, ridgeline-nas \d.*, numpy \d.*, optuna \d.*, Python 3\.", text
    )
    assert "* Seeds: 0 to 2.\n\nIt does.\n" in text
    assert "* Seeds: 3, 5.\n" in written(tmp_path, "It does.", seeds=(5, 3))
    assert "Seeds" not in written(tmp_path, "It does.", seeds=())
    assert not (tmp_path / "toy").exists()


def test_a_table_is_read_by_people_and_has_all_columns_and_digits_as_csv(tmp_path: Path) -> None:
    headings = {"device": "Device", "gain": "faster by", "p": "p"}
    table = Table(name="devices", caption="By device.", rows=ROWS, headings=headings, formats={"gain": ".0%"})
    text = written(tmp_path, table)
    assert (
        "By device. ([devices.csv](toy/devices.csv))\n\n"
        "| Device | faster by | p |\n"
        "|---|--:|--:|\n"
        "| v100 \\| eager | 11% (7% to 15%) | 0.03125 |\n"
        "| raspi4 | -1% | - |\n"
    ) in text
    with (tmp_path / "toy" / "devices.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "device": "v100 | eager", "gain": "0.11", "gain_low": "0.07", "gain_high": "0.15", "networks": "1234",
        "p": "0.03125",
    }  # fmt: skip
    assert (second["gain"], second["gain_low"], second["p"]) == ("-0.01", "", "")


def test_pictures_stand_beside_the_document_and_those_of_earlier_writes_go(tmp_path: Path) -> None:
    text = written(tmp_path, Picture(name="fronts", caption="Both fronts.", figure=Figure(figsize=(1, 1))))
    assert "![Both fronts.](toy/fronts.png)" in text
    assert (tmp_path / "toy" / "fronts.png").read_bytes().startswith(b"\x89PNG")
    written(tmp_path, Table(name="devices", rows=ROWS))
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["devices.csv", "toy.md"]


def test_prose_by_hand_survives_a_rewrite_even_where_its_place_is_gone(tmp_path: Path) -> None:
    parts = ("Figures: 1.", ByHand(name="what follows", prose="Write here."), ByHand(name="limits"))
    text = written(tmp_path, *parts)
    assert "<!-- by hand: what follows -->\nWrite here.\n<!-- end -->\n\n<!-- by hand: limits -->\n<!-- end -->" in text
    by_hand = "Not much,\n\nand *nothing* on CPUs."
    (tmp_path / "toy.md").write_text(text.replace("Write here.", by_hand), encoding="utf-8")
    again = written(tmp_path, "Figures: 2.", *parts[1:])
    assert "Figures: 2." in again
    assert "Figures: 1." not in again
    assert f"<!-- by hand: what follows -->\n{by_hand}\n<!-- end -->" in again
    assert f"{by_hand}\n<!-- end -->" in written(tmp_path, "Figures: 3.")
    assert written(tmp_path, "Figures: 3.").count(by_hand) == 1


def test_two_tables_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names of their own, found twice: \['devices'\]"):
        written(tmp_path, Table(name="devices", rows=ROWS), Table(name="devices", rows=ROWS))
    assert not any(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------- comparisons on devices


def route_of(folder: Path, *comparisons: Comparison) -> Route:
    return Route(name="nsga2", title="200 evaluations by `nsga2`", folder=folder, comparisons=comparisons)


def three_devices() -> tuple[Comparison, ...]:
    """Memory-aware search is faster on the first, as fast on the second, slower on the third."""
    slowness = (1.03, 1.14, 1.30)
    return tuple(
        made_up(slowness={"flops_only": 1.14, "memory_aware": each}, title=title, ridge_point=ridge_point)
        for each, title, ridge_point in zip(slowness, ("phone", "desk", "watch"), (40.0, 10.0, 3.0))
    )


def test_devices_are_counted_by_what_is_claimed_of_each(tmp_path: Path) -> None:
    route = route_of(tmp_path, *three_devices())
    assert counted_sentence(route, "memory_aware") == (
        "200 evaluations by `nsga2`: on 1 of 3 devices memory_aware search finds faster networks than flops_only "
        "search at equal accuracy (phone); no difference found on 1 (desk); slower on 1 (watch)."
    )


def test_the_document_answers_first_and_has_a_row_for_each_device_losses_included(tmp_path: Path) -> None:
    comparisons = three_devices()
    route = route_of(tmp_path / "searches", *comparisons)
    path = write_study("toy", "Toy", "python -m ...", range(10), parts_of([route], time.perf_counter(), 2), tmp_path)
    text = path.read_text(encoding="utf-8")
    for each in comparisons:
        assert text.index(headline(each)) < text.index("## 200 evaluations")
        assert f"\n| {each.title} | " in text
        assert f"](toy/fronts-{each.title}.png)" in text
    latency = comparisons[0].versus["memory_aware"].latency_ratio
    assert latency is not None
    assert f"| **{signed_percent_text(latency)}, p = " in text
    desk = next(line for line in text.splitlines() if line.startswith("| desk | ") and ", p = " in line)
    assert "**" not in desk
    watch = next(line for line in text.splitlines() if line.startswith("| watch | ") and ", p = " in line)
    assert "**+" in watch
    with (tmp_path / "toy" / "compare.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["title"], row["strategy"], row["claim"]) for row in rows] == [
        (title, strategy, claim if strategy == "memory_aware" else "")
        for title, claim in (("phone", "faster"), ("desk", "no difference found"), ("watch", "slower"))
        for strategy in ("flops_only", "memory_aware")
    ]
    assert "## All devices" not in text  # no reports lie in the folder
    # 3 devices x 2 strategies x 10 seeds; a search of seed s took 21.4 + s seconds: 6 x (214 + 45) s = 25.9 minutes
    assert "with 2 processes that search; the 60 searches, some perhaps from earlier runs, took 25.9 minutes" in text


def test_a_comparison_leaves_its_report_and_is_part_of_the_picture_of_all_devices(tmp_path: Path) -> None:
    comparison = made_up(with_sweep=False, with_limits=False, title="v100, batch 32")
    asked: list[Path] = []

    def compare(folder: Path) -> Comparison:
        asked.append(folder)
        return comparison

    work = [("v100-batch32", compare)]
    route = compared("nsga2", "Toy", tmp_path, work, Console(quiet=True), "python -m nas.studies toy")
    assert route.comparisons == (comparison,)
    assert asked == [tmp_path / "v100-batch32"]
    assert (tmp_path / "v100-batch32" / "report.html").is_file()
    parts = parts_of([route], time.perf_counter(), 1)
    assert parts.index("## All devices") + 1 == next(
        at for at, part in enumerate(parts) if isinstance(part, Picture) and part.name == "devices"
    )
    assert [part.name for part in parts if isinstance(part, Picture)] == ["devices", "fronts-v100--batch-32"]


def test_each_study_compares_what_it_says_and_keeps_searches_by_route_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def made(task: SearchTask, accuracy: object, strategies: Sequence[Strategy], **others: Any) -> Comparison:
        batch = input_shape(task.deployed_space.graph(task.space.smallest()))[0]
        asked.append({"strategies": [each.name for each in strategies], "batch": batch, **others})
        return made_up([each.name for each in strategies], num_seeds=2, title=others["title"])

    monkeypatch.setattr(ofa, "compare_strategies", made)
    monkeypatch.setattr(devices, "write_report", lambda *_, **__: None)
    out, docs = tmp_path / "out", tmp_path / "docs"
    command = ["ofa", "--devices", "mobile_cpu", "v100@32", "--seeds", "2", "--trials", "50", "--jobs", "1"]
    assert main([*command, "--few-trials", "20", "--out", str(out), "--docs", str(docs)]) == 0
    assert [(each["folder"], each["sampler_name"], each["num_trials"], each["batch"]) for each in asked] == [
        (out / "nsga2" / "mobile_cpu", "nsga2", 50, 1),
        (out / "nsga2" / "v100-batch32", "nsga2", 50, 32),
        (out / "predictor" / "mobile_cpu", "predictor", 20, 1),
        (out / "predictor" / "v100-batch32", "predictor", 20, 32),
    ]
    assert asked[0]["strategies"] == list(ofa.STRATEGIES)
    assert asked[2]["strategies"] == list(ofa.FEW_STRATEGIES)
    assert [each["sweep"] for each in asked] == [True, True, False, False]
    text = (docs / "ofa.md").read_text(encoding="utf-8")
    assert f"`python -m nas.studies {' '.join(command)} --few-trials 20 " in text
    assert "* Seeds: 0, 1.\n" in text
    assert "v100, batch 32" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ofa", "--seeds", "0"], "--seeds must be at least 1, found 0"),
        (
            ["ofa", "--devices", "v100@many"],
            "--devices v100@many: 'many' is no batch; write DEVICE@BATCH, e.g. v100@32",
        ),
        (["ofa", "--devices", "abacus"], "abacus"),
        (
            ["nasbench201", "--data", "nowhere"],
            "nasbench201_acc/nb201_accuracy.csv.gz is not there; --data FOLDER says",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")]) == 2
    assert said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_estimates_and_whole_milliseconds_of_a_table_are_said_to_be_that() -> None:
    space = load_space("nasbench201", num_classes=100, keeps_dead_branches=True)
    archs = (space.smallest(), space.largest())
    for device, said in (
        ("fpga", "latency estimated for fpga (HELP's table of NAS-Bench-201; estimated, not measured)"),
        ("samsung_a50", "measured on samsung_a50 (HELP's table of NAS-Bench-201; given in whole milliseconds)"),
        ("titan_rtx_256", "latency measured on titan_rtx_256, batch 256 (HELP's table of NAS-Bench-201)"),
    ):
        benchmark = Benchmark(
            name="", device=device, space=space, deployed_space=space, archs=archs, reference_points={}, best={},
            losses_ND=np.array([[0.9, 0.001], [0.3, 0.016]]), accuracy=None,  # type: ignore[arg-type]
        )  # fmt: skip
        yardstick = nasbench201.yardstick_of(benchmark)
        assert said in yardstick.text
        unknown = dict(archs[0]) | {next(iter(archs[0])): archs[1][next(iter(archs[0]))]}
        assert yardstick.latency_s([archs[1], archs[0], unknown])[:2].tolist() == [0.016, 0.001]
        assert np.isnan(yardstick.latency_s([unknown])[0])


# ------------------------------------------------------------------------------------------------------------ digits


def test_predictions_are_held_against_what_was_measured() -> None:
    # ratios 1.1, 0.9, 1.2: errors 10, 10 and 20 % are 13.3 % in the mean; the order is that of the measurements
    said = digits.prediction_sentence("It", np.array([1.1, 1.8, 3.6]), np.array([1.0, 2.0, 3.0]))
    assert said == "It errs by 13.3% in the mean (+10.0% in the median), Kendall's tau 1.000"


def test_exported_files_stand_beside_the_graphs_of_the_same_networks() -> None:
    comparison = made_up(("flops_only", "latency_only"))
    errors = (0.23, 0.3, 0.4)
    # the latency_only files take 0.9 of the time of the others at each error; files take 1.1 times the graphs' time
    exported = [
        digits.Exported(strategy=name, error=error, file_s=factor * (1.0 - error), graph_s=factor * (1.0 - error) / 1.1)
        for name, factor in (("flops_only", 1.0), ("latency_only", 0.9))
        for error in errors
    ]
    _, table = digits.exported_part(exported, comparison)
    assert isinstance(table, Table)
    first, second = table.rows
    assert (first["chosen by"], first["networks"], first["beside the baseline"]) == ("flops_only", 3, "")
    assert first["ratio"] == pytest.approx(1.1)
    assert first["spread"] == pytest.approx(0.0, abs=1e-12)
    assert second["beside the baseline"] == "-10.0 %"


def test_networks_are_exported_with_their_weights_once_and_timed_beside_their_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space("mobilenet_v3_tiny")
    predictor = LatencyPredictor(load_device("cpu_x86"), runtime="onnxruntime")
    task = SearchTask(
        space=space, deployed_space=space.deployed(), predictor=predictor, objectives=("error", "latency_s")
    )
    both = Chosen(
        strategy="flops_only",
        seed=0,
        archs=(space.smallest(), space.largest()),
        losses_F2=np.array([[0.4, 1e-4], [0.5, 2e-4]]),  # the largest is of no use
    )
    comparison = SimpleNamespace(chosen={"flops_only": (both,), "latency_only": (both,)})
    extracted = []

    def extract(arch: Arch) -> torch.nn.Module:
        extracted.append(arch)
        return space.build(arch).eval()

    found = digits.export_and_measure(comparison, task, extract, tmp_path)  # type: ignore[arg-type]
    assert [(each.strategy, each.error) for each in found] == [("flops_only", 0.4), ("latency_only", 0.4)]
    assert found[0].file_s == found[1].file_s
    assert 0.2 < found[0].file_s / found[0].graph_s < 5.0
    (file,) = (tmp_path / "exported").iterdir()
    assert file.suffix == ".onnx"
    monkeypatch.setattr(digits, "_times", lambda networks, *_: dict.fromkeys(networks, (1.1, 1.0)))
    again = digits.export_and_measure(comparison, task, extract, tmp_path)  # type: ignore[arg-type]
    assert [each.file_s for each in again] == [1.1, 1.1]
    assert extracted == [space.smallest()]
