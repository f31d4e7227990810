import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up_accuracy
import pytest
import yaml
from bad_input import check_refused
from filelock import FileLock

import nas.compare.__main__
import nas.compare.job
from nas.cli import run_command
from nas.compare.comparing import OUTCOMES_FILE
from nas.compare.records import Comparison
from nas.proposals import DistinctSampler

pytestmark = pytest.mark.filterwarnings("ignore:num_seeds=:UserWarning")  # few seeds are quick

QUICK = (
    "data=digits",
    "accuracy=made_up",
    "num_trials=10",
    "num_seeds=2",
    "strategies=[flops_only,latency_only]",
    "sweep=false",
)
TABLE = ("yardstick=table", "yardstick.path=times.csv", "yardstick.column=ms")
Run = Callable[..., list[tuple[Comparison, Path]]]


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with an accuracy that needs no training, away from the user's own folders."""
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy" / "made_up.yaml").write_text("source: made_up_accuracy.MadeUp\nseconds: 0.0\n")
    (tmp_path / "objectives").mkdir()
    for name, metrics in (("thrifty", "[error, energy_j]"), ("cheap", "[macs, latency_s]")):
        (tmp_path / "objectives" / f"{name}.yaml").write_text(f"name: {name}\nmetrics: {metrics}\n")
    (tmp_path / "times.csv").write_text("arch_str,ms\n1,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process and returns the comparisons that it would have reported, and their folders."""
    reported: list[tuple[Comparison, Path]] = []
    monkeypatch.setattr(nas.compare.job, "report", lambda found, folder, **_: reported.append((found, folder)))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(*overrides: str) -> list[tuple[Comparison, Path]]:
        monkeypatch.setattr(sys, "argv", ["compare", *overrides])
        reported.clear()
        run_command(nas.compare.__main__.main, prepared=nas.compare.__main__.prepared)
        return list(reported)

    return run


def finished(folder: Path) -> list[dict[str, Any]]:
    """What stands in a folder of finished searches, but for the seconds that they took."""
    records = [json.loads(line) for line in (folder / OUTCOMES_FILE).read_text().splitlines()]
    return sorted(({**each, "seconds": 0.0} for each in records), key=lambda each: (each["seed"], each["strategy"]))


# ---------------------------------------------------------------------------------------------------------- bad input

BAD_INPUT = {
    "no device": ((), ["no device was given; add hw=NAME, with one of [", "'mobile_gpu'"]),
    "unknown strategy": (
        ("hw=v100", *QUICK, "strategies=[flops_only,flop]"),
        ["strategies: unknown 'flop'; nearest are", "there are ['cheap', 'flops_only', 'latency_only'", "'random'"],
    ),
    "strategies that share no yardstick": (
        ("hw=v100", *QUICK, "strategies=[flops_only,cheap]"),
        ["'cheap' looks at MACs and latency alone; all are judged by error against latency", "cheap.yaml"],
    ),
    "baseline that is no strategy": (
        ("hw=v100", *QUICK, "baseline=random"),
        ["baseline 'random' is none of the strategies ['flops_only', 'latency_only']; add it"],
    ),
    "one seed": (
        ("hw=v100", *QUICK, "num_seeds=1"),
        ["num_seeds must be at least 2, found 1", "the rank test needs 6 seeds to tell anything"],
    ),
    "few trials": (("hw=v100", *QUICK, "num_trials=9"), ["num_trials must be at least 10, found 9"]),
    "no process": (("hw=v100", *QUICK, "jobs=0"), ["jobs must be at least 1, found 0"]),
    "device without figures": (
        ("hw=v100", *QUICK, "strategies=[flops_only,thrifty]"),
        ["device 'v100' has no figures for 'energy_j'"],
    ),
    "unknown yardstick": (
        ("hw=v100", *QUICK, "yardstick=measured"),
        ["unknown yardstick 'measured'; there are ['here', 'predicted', 'table']"],
    ),
    "table of another space": (
        ("hw=v100", *QUICK, *TABLE),
        ["yardstick.archs=strings are NAS-Bench-201's, space 'mobilenet_v3_tiny' is another; write a column for each"],
    ),
    "table without the knobs": (
        ("hw=v100", *QUICK, *TABLE, "yardstick.archs=knobs"),
        ["times.csv: column 'resolution' (a knob of the space) is missing"],
    ),
    "measured elsewhere": (
        ("hw=v100", *QUICK, "yardstick=here"),
        ["yardstick=here: ", "'v100'", "give yardstick=table", "or yardstick.is_device=true"],
    ),
    "unknown runtime": (("hw=v100", *QUICK, "runtime=litte"), ["unknown runtime 'litte'; there are ["]),
    "misspelled key": (("hw=v100", "num_seed=3"), ["unknown key 'num_seed'", "did you mean 'num_seeds'?"]),
    "a storage": (("hw=v100", "storage=mysql://a:secret@b/c"), ["storage"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence_with_exit_code_2_and_leaves_nothing_behind(
    name: str, run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(run, *BAD_INPUT[name], workplace, capsys)


def test_too_few_seeds_for_the_rank_test_are_said_and_compared_all_the_same(run: Run) -> None:
    with pytest.warns(
        UserWarning, match=r"num_seeds=2: with a strategy held against flops_only, the rank test needs 6"
    ):
        ((found, _),) = run("hw=v100", *QUICK)
    assert found.num_seeds_needed == 6
    assert found.seeds == (0, 1)


# ------------------------------------------------------------------------------------------------------------- folders


def test_devices_of_one_question_share_a_folder_and_another_question_gets_another(run: Run, workplace: Path) -> None:
    both = run("hw=mobile_gpu,v100", *QUICK, "--multirun")
    ((batched, batched_folder),) = run("hw=v100", *QUICK, "deploy.batch=32", "seed=1")
    ((_, other_folder),) = run("hw=v100", *QUICK, "num_trials=12")
    assert [found.title for found, _ in both] == ["mobile_gpu", "v100"]
    assert batched.title == "v100, batch 32"
    assert batched_folder.name == "v100-batch-32"
    assert {folder.parent for _, folder in both} == {batched_folder.parent} != {other_folder.parent}
    assert batched_folder.parent.name.startswith("mobilenet_v3_tiny-digits-")
    assert batched.seeds == (1, 2)
    [accuracies] = workplace.glob("outputs/compare/*.accuracies.jsonl")  # one for all devices and questions
    networks = [json.dumps(json.loads(line)["arch"]) for line in accuracies.read_text().splitlines()]
    assert len(networks) == len(set(networks)) > 10


def test_a_folder_for_another_question_is_refused(
    run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, folder),) = run("hw=v100", *QUICK, "run_dir=mine")
    assert folder == Path("mine") / "v100"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["hw"]["name"], config["num_trials"]) == ("v100", 10)
    run("hw=v100", *QUICK, "run_dir=mine", "num_seeds=3", "strategies=[flops_only,random]", "yardstick=predicted")
    with pytest.raises(SystemExit) as left:
        run("hw=mobile_gpu", *QUICK, "run_dir=mine", "num_trials=11")
    assert left.value.code == 2
    assert "mine was begun with num_trials 10, and 11 is asked now; continue it" in capsys.readouterr().err
    assert not (workplace / "outputs").exists()


def test_a_folder_in_which_another_comparison_runs_is_refused(
    run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "mine" / "v100").mkdir(parents=True)
    with FileLock(workplace / "mine" / "v100" / ".lock"), pytest.raises(SystemExit) as left:
        run("hw=v100", *QUICK, "run_dir=mine")
    assert left.value.code == 2
    assert "another comparison is running in mine/v100; wait for it" in capsys.readouterr().err


def test_bounds_on_other_devices_and_groups_of_the_users_own_work_as_in_a_search(run: Run) -> None:
    ((found, _),) = run(
        "hw=v100", *QUICK, "constraints.mobile_cpu.latency_ms=30", "strategies=[flops_only,two_devices]"
    )
    assert found.strategies[1].objectives == ("error", "latency_s", "mobile_cpu.latency_s")


# ------------------------------------------------------------------------------------------------------- interruptions


def test_ctrl_c_keeps_finished_searches_and_the_same_command_goes_on(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    propose, asked = DistinctSampler.sample_relative, iter(range(10 + 4))

    def propose_some(sampler: DistinctSampler, *arguments: Any) -> dict[str, Any]:
        if next(asked, None) is None:
            raise KeyboardInterrupt
        return propose(sampler, *arguments)

    monkeypatch.setattr(DistinctSampler, "sample_relative", propose_some)
    with pytest.raises(SystemExit) as left:
        run("hw=v100", *QUICK, "run_dir=mine")
    assert left.value.code == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on from here\n")
    assert len(finished(workplace / "mine" / "v100")) == 1
    monkeypatch.setattr(DistinctSampler, "sample_relative", propose)
    run("hw=v100", *QUICK, "run_dir=mine")
    run("hw=v100", *QUICK, "run_dir=whole")
    assert finished(workplace / "mine" / "v100") == finished(workplace / "whole" / "v100")


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(made_up_accuracy.__file__).parent), "OMP_NUM_THREADS": "1"}


def test_a_comparison_that_is_killed_in_the_midst_of_a_seed_goes_on_and_ends_as_if_it_had_not_been(
    run: Run, workplace: Path
) -> None:
    overrides = ["hw=v100", *QUICK, "accuracy.seconds=0.05", "run_dir=killed"]
    outcomes = workplace / "killed" / "v100" / OUTCOMES_FILE
    process = subprocess.Popen(
        [sys.executable, "-m", "nas.compare", *overrides],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not outcomes.exists() or not outcomes.read_bytes().count(b"\n"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with outcomes.open("a") as file:
        file.write('{"format": 1, "ask')
    assert outcomes.read_bytes().count(b"\n") < 4
    with pytest.warns(UserWarning, match=r"outcomes.jsonl: the last line is torn and was dropped"):
        ((resumed, _),) = run(*overrides)
    ((whole, _),) = run(*overrides[:-1], "run_dir=whole")
    assert finished(workplace / "killed" / "v100") == finished(workplace / "whole" / "v100")
    assert resumed.versus["latency_only"].latency_ratio == whole.versus["latency_only"].latency_ratio


# ---------------------------------------------------------------------------------------------------------- the report


def test_the_folder_has_the_report_and_that_above_has_the_table_of_all_devices(
    monkeypatch: pytest.MonkeyPatch, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "hw=mobile_gpu", *QUICK, "run_dir=mine"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    run_command(nas.compare.__main__.main, prepared=nas.compare.__main__.prepared)
    assert capsys.readouterr().out.startswith("Judged by latency predicted for mobile_gpu (neither the device nor")
    page = (workplace / "mine" / "mobile_gpu" / "report.html").read_text(encoding="utf-8")
    assert "python -m nas.compare hw=mobile_gpu data=digits accuracy=made_up num_trials=10" in page
    with (workplace / "mine" / "compare.csv").open(newline="") as file:
        assert [row["title"] for row in csv.DictReader(file)] == ["mobile_gpu"]
    assert "mobile_gpu" in (workplace / "mine" / "report.html").read_text(encoding="utf-8")


def test_help_lists_the_groups_and_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['compare', '--help']; import nas.compare.__main__ as command; "
        "command.run_command(command.main); assert not {'torch', 'optuna', 'scipy'} & {*sys.modules}"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    ).stdout
    assert all(part in shown for part in ("hw: a100", "yardstick: here, predicted, table", "num_seeds: 10"))
