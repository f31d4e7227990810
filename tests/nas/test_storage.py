"""Storages by mapping, path, URL and object; secrets that stay secret; storages that are away."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.trial import create_trial
from postgres import PASSWORD, Postgres, postgres  # noqa: F401
from storages import free_port, serve

import nas.patience
import nas.serve_storage
import nas.storage
from nas.cli import SPEAKING_PACKAGES
from nas.dashboard import describe_study
from nas.patience import PatientStorage, StorageAwayError
from nas.storage import (
    check_no_password,
    check_storage,
    close_storage,
    rewritten_overrides,
    shown_url,
    storage_from,
)

# ---------------------------------------------------------------------------------------------- what a storage is named


def test_a_storage_is_made_of_whatever_is_handiest(tmp_path: Path) -> None:
    assert isinstance(storage_from(None), InMemoryStorage)
    assert isinstance(storage_from(tmp_path / "study.journal"), JournalStorage)
    own = InMemoryStorage()
    assert storage_from(own) is own
    opened = storage_from(f"sqlite:///{tmp_path / 'study.db'}")
    assert isinstance(opened, PatientStorage)
    assert storage_from(opened) is opened
    wrapped = storage_from(RDBStorage(f"sqlite:///{tmp_path / 'study.db'}"), patience_s=3.0)
    assert isinstance(wrapped, PatientStorage)
    assert wrapped.patience.patience_s == 3.0
    assert wrapped.patience.shown == f"sqlite:///{tmp_path / 'study.db'}"
    close_storage(opened)
    close_storage(wrapped)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"kind": "grpc", "host": "h"}, "key 'port' is missing"),
        ({"kind": "grpc", "host": "h", "port": 70000}, "1 to 65535, found 70000"),
        ({"kind": "grpc", "host": "h", "port": 1, "url": "x"}, "unknown key 'url'"),
        ({"kind": "url", "url": "sqlite://", "patience_s": -1}, "must not be negative"),
        ({"kind": "url", "url": 3}, "storage.url: expected str"),
    ],
)
def test_a_mapping_that_is_no_storage_is_refused(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_storage(mapping)


@pytest.mark.parametrize("url", ["grpc://", "grpc://host:x", "grpc://me@host:1", "grpc://host:1/name"])
def test_a_grpc_url_names_a_host_and_a_port_only(url: str) -> None:
    with pytest.raises(ValueError, match="grpc://HOST:PORT"):
        storage_from(url)


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.storage, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'postgresql://me@host/name: .*pip install "ridgeline-nas\[postgresql\]"'):
        storage_from("postgresql://me@host/name")
    with pytest.raises(ValueError, match=r"ridgeline-nas\[mysql\]"):
        storage_from("mysql://me@host/name")
    with pytest.raises(ValueError, match=r"ridgeline-nas\[grpc\]"):
        storage_from("grpc://host:13000")
    assert nas.storage.__name__.split(".")[0] in SPEAKING_PACKAGES


# -------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/name",
        "postgresql://host/name?user=me&password=s3cret",
        "postgresql://me@host/name?sslpassword=s3cret&sslmode=require",
        "mysql+pymysql://me:s3cret@host:3306/name?charset=utf8mb4",
    ],
)
def test_a_password_is_shown_nowhere(url: str) -> None:
    assert "s3cret" not in shown_url(url)
    assert "***" in shown_url(url)
    overrides, environment = rewritten_overrides(["hw=v100", f"storage={url}", "seed=1"])
    assert overrides == ["hw=v100", "storage=url", "seed=1"]
    assert environment == {"RIDGELINE_STORAGE_URL": url}
    with pytest.raises(ValueError, match="has a password") as caught:
        check_no_password([f"storage.url='{url}'"])
    assert "s3cret" not in str(caught.value)


def test_a_url_without_password_stays_on_the_command_line() -> None:
    url = "postgresql://me@host/name?sslmode=require"
    assert rewritten_overrides([f'storage="{url}"']) == (["storage=url", f"storage.url='{url}'"], {})
    check_no_password([f"storage.url='{url}'"])
    untouched = ["storage=memory", "storage.url=x", "data.url=http://a/b", "--multirun", "hw=a,b"]
    assert rewritten_overrides(untouched) == (untouched, {})
    with pytest.raises(ValueError, match="no URL of a database"):
        rewritten_overrides(["storage=://me:s3cret"])


def test_the_overrides_that_were_rewritten_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_module

    import nas.search  # noqa: F401

    for url in ("postgresql://me:s3cret@host/name", "sqlite:///a b/c.db?timeout=3", "grpc://10.0.0.1:99"):
        overrides, environment = rewritten_overrides(["hw=v100", f"storage={url}"])
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        with initialize_config_module("configs", version_base="1.3"):
            storage = compose("search", overrides).storage
        if storage.kind == "grpc":
            assert (storage.host, storage.port) == ("10.0.0.1", 99)
        else:
            assert storage.url == url


def test_a_refused_password_is_not_waited_for_and_not_told(postgres: Postgres) -> None:  # noqa: F811
    started = time.monotonic()
    wrong = f"postgresql://ridge:wr0ng%7Bx%7D@127.0.0.1:{postgres.port}/postgres"
    with pytest.raises(ValueError, match="password authentication failed") as caught:
        storage_from(wrong)
    assert not isinstance(caught.value, StorageAwayError)
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(ValueError, match=r'database "nowhere" does not exist') as caught:
        storage_from(postgres.url.replace("/postgres", "/nowhere"))
    assert PASSWORD not in str(caught.value)
    assert time.monotonic() - started < 20.0


def test_workers_that_open_an_empty_database_at_once_all_get_in(postgres: Postgres) -> None:  # noqa: F811
    import psycopg

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    url = postgres.url.replace("/postgres", "/empty")
    start = threading.Barrier(4)
    names: list[str] = []

    def work() -> None:
        start.wait()
        storage = storage_from(url)
        names.append(optuna.create_study(storage=storage, study_name="one", load_if_exists=True).study_name)
        close_storage(storage)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["one"] * 4


# ----------------------------------------------------------------------------------------------------------------- away


def test_a_database_that_is_back_in_time_is_gone_on_with(
    postgres: Postgres,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage = storage_from(postgres.url)
    study = optuna.create_study(storage=storage, study_name="away for a while", load_if_exists=True)
    study.add_trial(create_trial(value=0.5))
    postgres.stop()
    back = threading.Timer(0.5, postgres.start)
    back.start()
    try:
        study.add_trial(create_trial(value=0.25))
    finally:
        back.join()
    assert [trial.value for trial in study.get_trials(deepcopy=False)] == [0.5, 0.25]
    text = capsys.readouterr().err
    assert f"storage postgresql://ridge:***@127.0.0.1:{postgres.port}/postgres is away (" in text
    assert "trying again in 1 s" in text
    assert PASSWORD not in text
    close_storage(storage)


def test_a_database_that_stays_away_ends_the_search_with_a_sentence(postgres: Postgres) -> None:  # noqa: F811
    storage = storage_from(postgres.url, patience_s=0.2)
    study = optuna.create_study(storage=storage, study_name="away for good", load_if_exists=True)
    study.add_trial(create_trial(value=0.5))
    postgres.stop()
    sentence = (
        rf"storage postgresql://ridge:\*\*\*@127.0.0.1:{postgres.port}/postgres has been away for 0 s: .+; "
        "what is finished is kept: the same command goes on from there"
    )
    try:
        with pytest.raises(StorageAwayError, match=sentence) as caught:
            study.add_trial(create_trial(value=0.25))
        with pytest.raises(StorageAwayError, match=sentence):
            storage_from(postgres.url, patience_s=0.2)
    finally:
        postgres.start()
    assert PASSWORD not in str(caught.value)
    study.add_trial(create_trial(value=0.25))
    assert [trial.value for trial in study.get_trials(deepcopy=False)] == [0.5, 0.25]
    close_storage(storage)


def test_pauses_double_up_to_half_a_minute_and_end_with_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    pauses: list[float] = []

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        clock[0] += pause_s

    monkeypatch.setattr(nas.patience.time, "sleep", sleep)
    monkeypatch.setattr(nas.patience.time, "monotonic", lambda: clock[0])

    def never(again: bool) -> None:
        raise optuna.exceptions.StorageInternalError("gone")

    with pytest.raises(StorageAwayError, match="storage x has been away for 120 s: gone; what is finished is kept"):
        nas.patience.Patience(shown="x").until_back(never)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 29]  # 120 s together
    with pytest.raises(ZeroDivisionError):
        nas.patience.Patience(shown="x").until_back(lambda again: 1 // 0)


def test_a_proxy_that_is_restarted_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    port = free_port()
    behind = storage_from(f"sqlite:///{tmp_path / 'study.db'}")
    server = serve(behind, port)
    storage = storage_from(f"grpc://127.0.0.1:{port}")
    study = optuna.create_study(storage=storage, study_name="study", direction="minimize")
    study.add_trial(create_trial(value=0.5))
    server.stop(None).wait()
    servers = []
    back = threading.Timer(0.5, lambda: servers.append(serve(behind, port)))
    back.start()
    study.add_trial(create_trial(value=0.25))
    back.join()
    assert [trial.value for trial in study.get_trials(deepcopy=False)] == [0.5, 0.25]
    assert f"storage grpc://127.0.0.1:{port} is away (" in capsys.readouterr().err
    close_storage(storage)
    servers[0].stop(None).wait()
    close_storage(behind)


# -------------------------------------------------------------------------------------------- the proxy, the dashboard


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which database shall be served"),
        (["storage=grpc://a:1"], "which database shall be served"),
        (["storage=sqlite://", "port=0"], "port must be 1 to 65535"),
        (["stroage=sqlite://"], "unknown key 'stroage'"),
    ],
)
def test_the_proxy_says_how_it_is_called(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIDGELINE_STORAGE_URL", raising=False)
    with pytest.raises(ValueError, match=message):
        nas.serve_storage.main(arguments)


def test_the_proxy_is_a_command(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    port = free_port()
    command = [sys.executable, "-m", "nas.serve_storage", f"storage=sqlite:///{tmp_path / 'a.db'}", f"port={port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            assert f"storage=grpc://localhost:{port}" in proxy.stdout.readline()
            storage = storage_from(f"grpc://localhost:{port}")
            study = optuna.create_study(storage=storage, study_name="study")
            study.add_trial(create_trial(value=0.5))
            assert study.best_value == 0.5
            close_storage(storage)
        finally:
            proxy.kill()


def test_optuna_dashboard_tells_names_and_units_of_the_objectives(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = storage_from(url)
    study = optuna.create_study(storage=storage, study_name="search", directions=["minimize"] * 2)
    describe_study(study, ["error", "latency_s"])
    describe_study(study, ["error", "latency_s"])
    study.add_trial(create_trial(values=[0.25, 0.01], user_attrs={"arch": {"width": 1}}))
    close_storage(storage)
    port = free_port()
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()", url, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dashboard:
        try:
            study_id = _json(f"http://127.0.0.1:{port}/api/studies")["study_summaries"][0]["study_id"]
            found = _json(f"http://127.0.0.1:{port}/api/studies/{study_id}?after=0")
        finally:
            dashboard.kill()
    assert found["objective_names"] == ["error", "latency_s"]
    attrs = {each["key"]: each["value"] for each in found["user_attrs"]}
    assert "share of wrong answers" in attrs["units"]
    assert found["trials"][0]["values"] == [0.25, 0.01]


def _json(url: str):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 60.0
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
