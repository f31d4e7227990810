import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import made_up_accuracy
import numpy as np
import pytest
import yaml
from bad_input import check_refused
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend

import nas
import nas.job
import nas.search
import nas.train
from nas.cli import run_command
from nas.proposals import DistinctSampler
from nas.result import Ending, SearchResult
from predictors import Device, Graph, load_device
from predictors.paths import shipped

QUICK = ("data=digits", "accuracy=made_up", "objectives=latency_only")
Run = Callable[..., list[SearchResult]]


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with an accuracy that needs no training, away from the user's own folders."""
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy" / "made_up.yaml").write_text("source: made_up_accuracy.MadeUp\nseconds: 0.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process and returns the results that it would have reported."""
    reported: list[SearchResult] = []
    monkeypatch.setattr(nas.job, "report", lambda result, *_, **__: reported.append(result))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(*overrides: str) -> list[SearchResult]:
        monkeypatch.setattr(sys, "argv", ["search", *overrides])
        reported.clear()
        run_command(nas.search.main, prepared=nas.search.prepared)
        return list(reported)

    return run


def folders(workplace: Path) -> list[Path]:
    return sorted(path.parent for path in workplace.glob("outputs/*/*/study.journal"))


def write_device(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (shipped("hw") / "v100.yaml").read_text().replace("name: v100", f"name: {name}", 1)
    path.write_text(text)


# ---------------------------------------------------------------------------------------------------------- bad input

BAD_INPUT = {
    "no device": ((), ["no device was given; add hw=NAME, with one of [", "'mobile_gpu'"]),
    "unknown device": (("hw=v10",), ["unknown hw 'v10'; there are [", "'mobile_gpu'", "did you mean 'v100'?"]),
    "no device at all": (("hw=null",), ["Config group override must be a string"]),
    "unknown space": (("hw=v100", "space=resnet"), ["unknown space 'resnet'; there are ['mobilenet_v3'"]),
    "unknown data": (
        ("hw=v100", "data=imagenette"),
        ["unknown data 'imagenette'; there are [", "did you mean 'imagenet'?"],
    ),
    "unknown objectives": (("hw=v100", "objectives=x"), ["unknown objectives 'x'; there are ['flops_only'"]),
    "unknown objective": (
        ("hw=v100", *QUICK, "objectives.metrics=[error,latancy]"),
        ["unknown objective 'latancy'; there are ['error', 'latency_s'"],
    ),
    "misspelled key": (("hw=v100", "num_trails=3"), ["unknown key 'num_trails'", "did you mean 'num_trials'?"]),
    "misspelled key of a group": (("hw=v100", "training.epochs=3"), ["unknown key 'epochs' in training", "batch_size"]),
    "unknown constraint": (
        ("hw=v100", "constraints.latency=3"),
        ["unknown key 'latency' in constraints", "latency_ms"],
    ),
    "text for a number": (("hw=v100", "num_trials=many"), ["num_trials=many", "could not be converted to Integer"]),
    "wrong type in a group": (
        ("hw=v100", *QUICK, "training.batch_size=many"),
        ["training: batch_size: expected int, found 'many'"],
    ),
    "negative number of trials": (("hw=v100", *QUICK, "num_trials=-1"), ["num_trials must be at least 1, found -1"]),
    "negative seed": (("hw=v100", *QUICK, "seed=-1"), ["seed must not be negative, found -1"]),
    "negative constraint": (("hw=v100", *QUICK, "constraints.macs_m=-1"), ["constraints.macs_m: must be positive"]),
    "negative resolution": (("hw=v100", *QUICK, "deploy.resolution=-32"), ["resolution -32"]),
    "negative batch": (("hw=v100", *QUICK, "deploy.batch=-1"), ["batch"]),
    "unknown dtype": (("hw=v100", *QUICK, "deploy.dtype=fp64"), ["device 'v100' has no peak for dtype 'fp64'"]),
    "negative peak": (
        ("hw=v100", *QUICK, "hw.peak.float16.value=-1"),
        ["hw: peak.float16: value: must be positive and finite, found -1"],
    ),
    "unknown unit": (("hw=v100", *QUICK, "hw.peak.float16.unit=Gflop"), ["unknown unit 'Gflop'; allowed are"]),
    "infeasible constraint": (
        ("hw=v100", *QUICK, "constraints.latency_ms=0.0001"),
        ["constraint latency_ms=0.0001: the least that the space reaches on v100 is ", " ms"],
    ),
    "data of another space": (
        ("hw=v100", "data=digits", "space.num_classes=7"),
        ["data 'digits' has num_classes 10, space 'mobilenet_v3_tiny' has 7"],
    ),
    "bad sampler": (("hw=v100", *QUICK, "+sampler.popsize=3"), ["unknown key 'popsize'; allowed are"]),
    "bad grammar": (("hw=v100", "seed==3"), ["Error parsing override 'seed==3'"]),
    "password": (("hw=v100", "storage=url", "storage.url=mysql://a:secret@b/c"), ["a:***@b", "RIDGELINE_STORAGE_URL"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence_with_exit_code_2_and_leaves_nothing_behind(
    name: str, run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_refused(run, *BAD_INPUT[name], workplace, capsys)


def test_errors_that_are_not_the_users_keep_their_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.job, "search_task", lambda *_, **__: np.zeros(3).reshape(2, 2))
    with pytest.raises(ValueError, match="cannot reshape array"):
        run("hw=v100", *QUICK)


def test_a_full_disk_is_a_sentence_and_the_search_goes_on_later(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workplace: Path
) -> None:
    append, room = JournalFileBackend.append_logs, iter(range(6))

    def append_while_there_is_room(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        if next(room, None) is None:
            path = next(workplace.glob("outputs/*/*/study.journal"))
            with path.open("a") as file:
                file.write('{"op_code":4,"stu')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        append(backend, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append_while_there_is_room)
    with pytest.raises(SystemExit) as left:
        run("hw=v100", *QUICK, "num_trials=10")
    assert left.value.code == 1
    assert "error: the disk is full (" in capsys.readouterr().err
    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
    with pytest.warns(UserWarning, match="torn"):
        (result,) = run("hw=v100", *QUICK, "num_trials=10")
    assert len(result.candidates) == 10


# ----------------------------------------------------------------------------------------------------------- studies


def test_the_same_command_continues_its_study_and_another_question_gets_another_folder(
    run: Run, workplace: Path
) -> None:
    (first,) = run("hw=v100", *QUICK, "num_trials=5")
    assert len(folders(workplace)) == 1
    assert folders(workplace)[0].name.startswith("mobilenet_v3_tiny-digits-latency_only-")
    (more,) = run("hw=v100", *QUICK, "num_trials=8")
    assert more.candidates[:5] == first.candidates
    assert len(more.candidates) == 8
    assert len(folders(workplace)) == 1
    for number, change in enumerate(
        ("seed=1", "deploy.resolution=64", "constraints.latency_ms=5", "training.seed=1", "hw.peak.float16.value=99"),
        start=2,
    ):
        run("hw=v100", *QUICK, "num_trials=2", change)
        assert len(folders(workplace)) == number


def test_the_folder_holds_the_config_that_was_composed(run: Run, workplace: Path) -> None:
    run("hw=v100", *QUICK, "num_trials=2", "constraints.latency_ms=5", f"run_dir={workplace}/mine")
    config = yaml.safe_load((workplace / "mine" / "config.yaml").read_text())
    assert config["hw"]["name"] == "v100"
    assert config["constraints"]["latency_ms"] == 5
    assert not (workplace / "outputs").exists()


def test_the_password_of_a_storage_is_not_saved() -> None:
    text = nas.job.saved_config({"storage": {"kind": "url", "url": "mysql://me:secret@host/name"}})
    assert "me:***@host" in text
    assert "secret" not in text


def test_a_folder_with_another_study_is_refused(run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("hw=v100", *QUICK, "num_trials=2", "run_dir=mine")
    before = (workplace / "mine" / "config.yaml").read_text()
    with pytest.raises(SystemExit) as left:
        run("hw=v100", *QUICK, "num_trials=2", "run_dir=mine", "constraints.latency_ms=5")
    assert left.value.code == 2
    assert "study 'mine' was begun with constraints.latency_s None, and 0.005 is asked" in capsys.readouterr().err
    assert (workplace / "mine" / "config.yaml").read_text() == before


def test_a_folder_in_which_another_search_runs_is_refused(
    run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "mine").mkdir()
    with FileLock(workplace / "mine" / ".lock"), pytest.raises(SystemExit) as left:
        run("hw=v100", *QUICK, "run_dir=mine")
    assert left.value.code == 2
    assert "another search is running in mine; wait for it" in capsys.readouterr().err


def test_ctrl_c_reports_what_is_there_and_the_same_command_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reported: list[SearchResult] = []
    monkeypatch.setattr(nas.job, "report", lambda result, *_, **__: reported.append(result))
    propose = DistinctSampler.sample_relative

    def propose_four(sampler: DistinctSampler, study: Any, *rest: Any) -> dict[str, Any]:
        if len(study.trials) > 4:
            raise KeyboardInterrupt
        return propose(sampler, study, *rest)

    monkeypatch.setattr(DistinctSampler, "sample_relative", propose_four)
    with pytest.raises(SystemExit) as left:
        run("hw=v100", *QUICK, "num_trials=9")
    assert left.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [len(result.candidates) for result in reported] == [4]
    assert reported[0].ending is Ending.INTERRUPTED


# ----------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("place", ["hw", "home/hw"])
def test_a_users_own_device_is_found(place: str, run: Run, workplace: Path) -> None:
    write_device(workplace / place / "my_board.yaml", "my_board")
    (result,) = run("hw=my_board", *QUICK, "num_trials=2")
    assert result.predictor.device.name == "my_board"


def test_a_device_that_hides_behind_a_shipped_one_is_refused(
    run: Run, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_device(workplace / "hw" / "v100.yaml", "v100")
    with pytest.raises(SystemExit):
        run("hw=v100", *QUICK)
    assert "rename yours" in capsys.readouterr().err


def test_this_machine_is_measured_on_first_use(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("predictors.profile")

    def profile_host(*, graphs: Sequence[Graph]) -> Device:
        assert len(graphs) > 1
        assert max(graph.nodes[0].operator.output_shape[2:] for graph in graphs) == (224, 224), "as deployed"
        write_device(workplace / "home" / "hw" / "host.yaml", "host")
        return load_device("host")

    module.profile_host = profile_host  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "predictors.profile", module)
    (result,) = run("hw=host", *QUICK, "num_trials=2")
    assert result.predictor.device.name == "host"
    assert str(workplace / "home" / "hw") in capsys.readouterr().out


def test_multirun_searches_for_every_device(run: Run, workplace: Path) -> None:
    write_device(workplace / "hw" / "my_board.yaml", "my_board")
    results = run("hw=v100,my_board", *QUICK, "num_trials=2", "--multirun")
    assert [result.predictor.device.name for result in results] == ["v100", "my_board"]
    assert len(folders(workplace)) == 2


# --------------------------------------------------------------------------------------------------- as a process


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(made_up_accuracy.__file__).parent), "OMP_NUM_THREADS": "1"}


def test_help_lists_the_groups_and_imports_no_torch() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "nas.search", "--help"], capture_output=True, text=True, check=True, env=environment()
    ).stdout
    assert all(part in shown for part in ("hw: a100", "objectives: flops_only", "num_trials: 200", "latency_ms: null"))
    code = "import nas, nas.search, sys; assert not {'torch', 'optuna'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


@pytest.mark.slow
def test_a_search_that_is_killed_anywhere_goes_on_with_the_same_command(run: Run, workplace: Path) -> None:
    overrides = ["hw=v100", *QUICK, "num_trials=25", "accuracy.seconds=0.02", "run_dir=killed"]
    journal = workplace / "killed" / "study.journal"
    num_lines = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "nas.search", *overrides],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not journal.exists() or len(journal.read_bytes().splitlines()) < num_lines + 8:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_lines = len(journal.read_bytes().splitlines())
    done = subprocess.run(
        [sys.executable, "-m", "nas.search", *overrides], env=environment(), capture_output=True, text=True, check=True
    )
    assert "report.html" in done.stdout
    assert (workplace / "killed" / "report.html").exists()
    (resumed,) = run(*overrides)
    (whole,) = run(*overrides[:-1], "run_dir=whole")
    assert resumed.candidates == whole.candidates
    assert len(whole.candidates) == 25


def test_the_contents_page_of_nas_finds_all_that_it_lists() -> None:
    for name in nas.__all__:
        assert getattr(nas, name) is not None
    with pytest.raises(AttributeError, match="module 'nas' has no attribute 'nothing'"):
        _ = nas.nothing


def test_the_train_command_trains_a_supernet_that_the_search_reuses(
    run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ("data=digits", "training.num_steps=1", "training.num_random=0", "training.batch_size=8")
    monkeypatch.setattr(sys, "argv", ["train", *recipe])
    run_command(nas.train.main)
    (supernet,) = (workplace / "home" / "supernets").glob("*.safetensors")
    assert f"kept in {workplace / 'home' / 'supernets'}" in capsys.readouterr().out
    written = supernet.stat().st_mtime_ns
    (result,) = run("hw=v100", *recipe, "num_trials=1")
    assert 0.0 <= result.candidates[0].metrics["error"] <= 1.0
    assert supernet.stat().st_mtime_ns == written
    assert {path.name for path in supernet.parent.iterdir()} == {supernet.name, "logs"}
