"""Workers that are processes share a study on a real database; they are killed, and so is the database."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from ledger_worker import NUM_NETWORKS, error_of
from optuna.trial import TrialState
from postgres import PASSWORD, Postgres, postgres  # noqa: F401

from nas.proposals import arch_key
from nas.storage import close_storage, storage_from

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}


def start_worker(url: str, study_name: str, log: Path, seconds: float = 0.05) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "ledger_worker.py"), url, study_name, str(log), str(seconds)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def start_search(url: str, study_name: str, log: Path, num_workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "search_worker.py"), url, study_name, str(log), str(num_workers)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def evaluations(log: Path) -> list[str]:
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def check_all_are_finished_once(url: str, study_name: str) -> None:
    storage = storage_from(url)
    trials = optuna.load_study(study_name=study_name, storage=storage).get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    counts = Counter(arch_key(trial.user_attrs["arch"]) for trial in complete)
    assert len(counts) == NUM_NETWORKS
    assert set(counts.values()) == {1}
    assert all(trial.values == [error_of(trial.params)] for trial in complete)
    assert all(trial.state is not TrialState.RUNNING for trial in trials)
    close_storage(storage)


def end(workers: list[subprocess.Popen[str]]) -> list[str]:
    """What they said; none of them is left."""
    texts = []
    for worker in workers:
        try:
            worker.wait(timeout=180)
        finally:
            worker.kill()
        assert worker.stderr is not None
        texts.append(worker.stderr.read())
        worker.stderr.close()
    return texts


def test_workers_that_are_killed_lose_nothing_and_repeat_only_what_ran(
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    log, name = tmp_path / "log", "killed workers"
    workers = [start_worker(postgres.url, name, log) for _ in range(2)]
    num_killed = 0
    for num_before in (8, 20):
        wait_until(lambda number=num_before: len(evaluations(log)) >= number)  # type: ignore[misc]
        workers[num_killed].send_signal(signal.SIGKILL)
        num_killed += 1
        workers.append(start_worker(postgres.url, name, log))
    texts = end(workers)
    assert [worker.returncode for worker in workers] == [-9, -9, 0, 0], texts
    check_all_are_finished_once(postgres.url, name)
    assert NUM_NETWORKS <= len(evaluations(log)) <= NUM_NETWORKS + num_killed
    assert max(Counter(evaluations(log)).values()) <= 1 + num_killed


def test_a_search_goes_on_when_the_database_was_restarted(
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    log, name = tmp_path / "log", "restarted"
    workers = [start_worker(postgres.url, name, log) for _ in range(2)]
    wait_until(lambda: len(evaluations(log)) >= 10)
    postgres.stop()
    time.sleep(0.5)
    postgres.start()
    texts = end(workers)
    assert [worker.returncode for worker in workers] == [0, 0], texts
    check_all_are_finished_once(postgres.url, name)
    assert len(evaluations(log)) == NUM_NETWORKS  # nobody died, so nothing is evaluated twice
    assert "is away (" in "".join(texts)
    assert PASSWORD not in "".join(texts)


def test_searches_that_share_a_study_are_killed_and_joined_at_will(
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    log, name = tmp_path / "log", "searches"
    killed, other = (start_search(postgres.url, name, log, num_workers=2) for _ in range(2))
    wait_until(lambda: len(evaluations(log)) >= 8)
    killed.send_signal(signal.SIGKILL)
    joined = start_search(postgres.url, name, log, num_workers=1)
    texts = end([other, joined])
    end([killed])
    assert [other.returncode, joined.returncode] == [0, 0], texts
    storage = storage_from(postgres.url)
    study = optuna.load_study(study_name=name, storage=storage)
    assert study.metric_names == ["error", "latency_s"]
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    networks = [arch_key(trial.user_attrs["arch"]) for trial in complete]
    assert len(set(networks)) == len(networks)
    assert 30 <= len(networks) <= 30 + 2  # whoever claims at the same moment as the last one finishes it
    assert all(trial.state is not TrialState.RUNNING for trial in trials)
    assert len(evaluations(log)) <= len(networks) + 2  # what ran in the one that was killed
    close_storage(storage)


def start_command(folder: Path, url: str, *overrides: str) -> subprocess.Popen[str]:
    (folder / "accuracy").mkdir(parents=True, exist_ok=True)
    (folder / "accuracy" / "made_up.yaml").write_text("source: made_up_accuracy.MadeUp\nseconds: 0.3\n")
    options = ["hw=v100", "data=digits", "accuracy=made_up", "objectives=latency_only"]
    command = [sys.executable, "-m", "nas.search", *options, f"storage={url}", *overrides]
    environment = {**ENVIRONMENT, "RIDGELINE_HOME": str(folder / "home")}
    return subprocess.Popen(
        command, env=environment, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


@pytest.mark.slow
def test_the_same_command_on_two_machines_is_one_search_that_survives_one_of_them(
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    storage = storage_from(postgres.url)
    asked = ("study_name=commands", "num_trials=16")
    killed = start_command(tmp_path / "first machine", postgres.url, *asked, "num_workers=2")
    other = start_command(tmp_path / "second machine", postgres.url, *asked)

    def num_complete() -> int:
        if "commands" not in optuna.get_all_study_names(storage):
            return 0
        study = optuna.load_study(study_name="commands", storage=storage)
        return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    wait_until(lambda: num_complete() >= 4)
    killed.send_signal(signal.SIGKILL)
    texts = end([killed, other])
    assert other.returncode == 0, texts
    assert 16 <= num_complete() <= 16 + 2
    assert len(list((tmp_path / "second machine").glob("outputs/v100/*/report.html"))) == 1
    assert PASSWORD.startswith("s3cret")  # as it is, and as it is written in URLs
    told = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert told == []
    assert "s3cret" not in "".join(texts)
    close_storage(storage)


@pytest.mark.slow
def test_a_sweep_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    sweep = ("seed=0", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "--multirun")
    worker = start_command(tmp_path, "memory", "num_trials=2", *sweep)
    texts = end([worker])
    assert worker.returncode == 0, texts
    assert len(list(tmp_path.glob("outputs/v100/*/report.html"))) == 1
