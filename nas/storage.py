"""Where a study is kept: memory, a journal file, a database that Optuna knows, or Optuna's gRPC proxy before one."""

import json
import logging
import os
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy.orm
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    InMemoryStorage,
    JournalStorage,
    RDBStorage,
    _CachedStorage,
    get_storage,
)
from optuna.storages._rdb.models import StudyModel, TrialModel, TrialParamModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, create_trial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from nas.patience import DEFAULT_PATIENCE_S, Patience, PatientStorage, is_away
from predictors.mapping import check_keys, check_type

KEYS = {
    "journal": (),
    "memory": (),
    "url": ("url", "patience_s"),
    "grpc": ("host", "port", "patience_s"),
}
"""Kinds of a storage, and the keys that belong to each."""

JOURNAL_NAME = "study.journal"
URL_VARIABLE = "RIDGELINE_STORAGE_URL"
DEFAULT_GRPC_PORT = 13000

DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("pymysql", "MySQLdb"), "mariadb": ("pymysql", "MySQLdb")}
"""Python packages that speak to a database, the preferred one first."""

_SECRET_WORDS = ("password", "passwd", "secret", "token", "passphrase")
_NUM_TRIES_TO_OPEN = 8


def check_storage(mapping: Mapping[str, Any]) -> None:
    """Raise ValueError for a misspelled key or an unknown kind, without opening anything."""
    kind = check_keys(mapping, {key for keys in KEYS.values() for key in ("kind", *keys)}, ("kind",), "storage")["kind"]
    if kind not in KEYS:
        raise ValueError(f"unknown storage kind {kind!r}; there are {list(KEYS)}")
    required = [key for key in KEYS[kind] if key != "patience_s"]
    keys = check_keys(mapping, ("kind", *KEYS[kind]), ("kind", *required), f"storage of kind {kind!r}")
    if kind == "url":
        shown_url(check_type(keys["url"], str, "storage.url"))
    if kind == "grpc":
        check_type(keys["host"], str, "storage.host")
        if not 0 < check_type(keys["port"], int, "storage.port") < 65536:
            raise ValueError(f"storage.port must be a port, 1 to 65535, found {keys['port']}")
    if check_type(keys.get("patience_s", DEFAULT_PATIENCE_S), (int, float), "storage.patience_s") < 0:
        raise ValueError(f"storage.patience_s must not be negative, found {keys['patience_s']}")


def shown_url(url: str) -> str:
    """The URL of a database without its password."""
    parsed = _parsed(url)
    query = {key: "***" if _is_secret(key) else value for key, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def check_no_password(overrides: Sequence[str]) -> None:
    """Raise ValueError for a password on the command line, which Hydra and the report would save."""
    for override in overrides:
        key, _, text = override.partition("=")
        url = text.strip("'\"")
        if key.lstrip("+") == "storage.url" and shown_url(url) != url:
            raise ValueError(
                f"storage.url={shown_url(url)} has a password, and command lines are saved with the results; "
                f"use storage=URL, or set {URL_VARIABLE} and use storage=url"
            )


def rewritten_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command line arguments whose `storage=URL` has become what Hydra can read and save, and environment variables.

    A URL without password stays in the arguments, so that the saved command works as it is; one with a password goes
    to the environment.

    >>> rewritten_overrides(["hw=v100", "storage=postgresql://me:secret@host/nas"])
    (['hw=v100', 'storage=url'], {'RIDGELINE_STORAGE_URL': 'postgresql://me:secret@host/nas'})
    >>> rewritten_overrides(["storage=sqlite:///nas.db"])
    (['storage=url', "storage.url='sqlite:///nas.db'"], {})
    >>> rewritten_overrides(["storage=grpc://host:13000"])
    (['storage=grpc', "storage.host='host'", 'storage.port=13000'], {})

    Raises:
        ValueError: a text with `://` that is no URL.
    """
    rewritten: list[str] = []
    environment: dict[str, str] = {}
    for argument in argv:
        key, _, text = argument.partition("=")
        url = text.strip("'\"")
        if key != "storage" or "://" not in url:
            rewritten.append(argument)
        elif url.startswith("grpc://"):
            host, port = _host_and_port(url)
            rewritten += ["storage=grpc", f"storage.host='{host}'", f"storage.port={port}"]
        elif shown_url(url) == url and "'" not in url:
            rewritten += ["storage=url", f"storage.url='{url}'"]
        else:
            rewritten.append("storage=url")
            environment[URL_VARIABLE] = url
    return rewritten, environment


def storage_from_mapping(mapping: Mapping[str, Any], folder: Path) -> BaseStorage:
    """The storage of a file in `configs/storage`; a journal lies in `folder`, which one process has for itself.

    Raises:
        ValueError: what `check_storage` refuses, a damaged journal, a driver that is missing, a database that refuses.
        StorageAwayError: it cannot be reached.
    """
    check_storage(mapping)
    patience_s = float(mapping.get("patience_s", DEFAULT_PATIENCE_S))
    if mapping["kind"] == "memory":
        return InMemoryStorage()
    if mapping["kind"] == "url":
        return storage_from(mapping["url"], patience_s=patience_s)
    if mapping["kind"] == "grpc":
        return _grpc_storage(mapping["host"], mapping["port"], patience_s)
    return open_journal(folder / JOURNAL_NAME)


def storage_from(what: BaseStorage | Path | str | None, *, patience_s: float = DEFAULT_PATIENCE_S) -> BaseStorage:
    """A storage by what is handiest: None for memory, the path of a journal, a URL, or an Optuna storage.

    Databases and proxies that are away are waited for, `patience_s` at each operation.

    Args:
        what: `postgresql://user@host/name`, `sqlite:///study.db`, `grpc://host:13000`, or whatever Optuna opens.

    Raises:
        ValueError: a damaged journal, no URL, a driver that is missing, a database that refuses.
        StorageAwayError: it cannot be reached.
    """
    if what is None:
        return InMemoryStorage()
    if isinstance(what, Path):
        return open_journal(what)
    if isinstance(what, str):
        if what.startswith("grpc://"):
            return _grpc_storage(*_host_and_port(what), patience_s)
        return _database(what, patience_s)
    if isinstance(what, PatientStorage):
        return what
    opened = get_storage(what)
    if isinstance(opened, _CachedStorage):
        return PatientStorage(opened, _patience_with(make_url(opened._backend.url), patience_s))
    if isinstance(opened, GrpcStorageProxy):
        shown = f"grpc://{opened._host}:{opened._port}"
        return PatientStorage(opened, Patience(shown=shown, patience_s=patience_s))
    return opened


def close_storage(storage: BaseStorage) -> None:
    """Give back connections. A journal and memory have none."""
    inner = storage.inner if isinstance(storage, PatientStorage) else storage
    if isinstance(inner, _CachedStorage):
        inner.remove_session()
        inner._backend.engine.dispose()
    if isinstance(inner, GrpcStorageProxy):
        inner.close()


def open_journal(path: Path) -> BaseStorage:
    """Optuna's journal file, mended first: the process that wrote it may have been killed in the middle of a line.

    The caller guarantees that no other process has it open, so a lock that is found belongs to a dead one.

    Raises:
        ValueError: a line other than the last is no JSON; the message names the file and the line.
    """
    if path.exists():
        _mend(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


# ---------------------------------------------------------------------------------------------------- databases, URLs


def _database(text: str, patience_s: float) -> BaseStorage:
    url = _with_driver(_parsed(text))
    patience = _patience_with(url, patience_s)
    logging.getLogger("optuna.storages._rdb.storage").addFilter(_is_no_statement)

    def opened(again: bool) -> RDBStorage:
        for number in range(_NUM_TRIES_TO_OPEN):
            try:
                return _DatabaseStorage(_escaped(url), engine_kwargs=_engine_settings(url))
            except DBAPIError as error:
                if is_away(error) and "already exists" not in str(error):
                    raise
                if number == _NUM_TRIES_TO_OPEN - 1:
                    raise ValueError(f"storage {patience.shown}: {patience.reason(error)}") from None
            time.sleep(random.uniform(0.05, 0.5))  # others make the same tables at this moment
        raise AssertionError

    try:
        storage = patience.until_back(opened)
    except ImportError:
        raise ValueError(f"storage {patience.shown}: {_missing_driver(url)}") from None
    except (RuntimeError, SQLAlchemyError) as error:
        raise ValueError(f"storage {patience.shown}: {patience.reason(error)}") from None
    return PatientStorage(_CachedStorage(storage), patience)


class _DatabaseStorage(RDBStorage):
    """Optuna's, with three changes.

    Transactions on SQLite lock before they read: else two workers could both finish one trial. All parameters of a new
    trial are inserted at once: Optuna looks up the trial and an earlier value of each, four statements for one of
    ours. And a new trial is not tried again here, but by `PatientStorage`, which looks whether it was written.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        self._known_distributions: dict[tuple[int, str], BaseDistribution] = {}
        try:
            super().__init__(url, engine_kwargs=engine_kwargs)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        if self.engine.name == "sqlite":
            sqlalchemy.event.listen(self.engine, "connect", _begin_nothing)
            sqlalchemy.event.listen(self.engine, "begin", _begin_immediately)
            self.engine.dispose()

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        with _create_scoped_session(self.scoped_session) as session:
            StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            row: Any = self._get_prepared_new_trial(study_id, template_trial, session)
            trial = copy(template_trial) if template_trial else create_trial(state=row.state)
            trial.number, trial._trial_id, trial.datetime_start = row.number, row.trial_id, row.datetime_start
            return trial

    def _set_trial_param_without_commit(
        self,
        session: sqlalchemy.orm.Session,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,
    ) -> None:
        trial: Any = session.get(TrialModel, trial_id)
        key = (-1 if trial is None else trial.study_id, param_name)
        if trial is None or self._known_distributions.get(key) != distribution:
            super()._set_trial_param_without_commit(
                session, trial_id, param_name, param_value_internal, distribution, previous_distribution
            )
            self._known_distributions[key] = distribution
            return
        self.check_trial_is_updatable(trial_id, trial.state)
        row = {"param_name": param_name, "param_value": param_value_internal}
        session.add(TrialParamModel(trial_id=trial_id, distribution_json=distribution_to_json(distribution), **row))


def _begin_nothing(connection: Any, record: Any) -> None:
    connection.isolation_level = None


def _begin_immediately(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine_settings(url: URL) -> dict[str, Any]:
    """No connection that died unseen is used, and none makes a worker wait for ever."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    settings: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 4}
    if url.get_backend_name() == "postgresql":
        asked = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}
        settings["connect_args"] = {key: value for key, value in asked.items() if key not in url.query}
    return settings


def _with_driver(url: URL) -> URL:
    """The same URL with a driver that is installed, where it names none."""
    for driver in DRIVERS.get(url.drivername, ()):
        if find_spec(driver):
            return url.set(drivername=f"{url.drivername}+{driver.lower()}")
    if url.drivername in DRIVERS:
        raise ValueError(f"storage {_shown(url)}: {_missing_driver(url)}")
    return url


def _missing_driver(url: URL) -> str:
    name = url.get_backend_name()
    if name in DRIVERS:
        extra = "mysql" if name == "mariadb" else name
        return f'the driver is not installed; pip install "ridgeline-nas[{extra}]"'
    return f"the driver of {url.drivername} is not installed"


def _patience_with(url: URL, patience_s: float) -> Patience:
    secrets = [str(value) for key, value in url.query.items() if _is_secret(key)]
    secrets += [str(url.password)] if url.password else []
    return Patience(shown=_shown(url), secrets=tuple(secrets), patience_s=patience_s)


def _shown(url: URL) -> str:
    return shown_url(url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False))


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (SQLAlchemyError, ValueError):
        raise ValueError("storage.url is no URL of a database, e.g. postgresql://user@host/name") from None


def _escaped(url: URL) -> str:
    """As Optuna wants it, which takes braces for places to fill in."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET_WORDS)


def _is_no_statement(record: logging.LogRecord) -> bool:
    """Optuna logs a whole SQL statement when a connection is lost while it reads; the retry says what happened."""
    return "Caught an error from sqlalchemy" not in record.getMessage()


# --------------------------------------------------------------------------------------------------------------- gRPC


def _grpc_storage(host: str, port: int, patience_s: float) -> BaseStorage:
    shown = f"grpc://{host}:{port}"
    if not all(find_spec(package) for package in ("grpc", "google", "google.protobuf")):
        raise ValueError(f'storage {shown}: gRPC is not installed; pip install "ridgeline-nas[grpc]"')
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = _Proxy(host=host, port=port)
    return PatientStorage(storage, Patience(shown=shown, patience_s=patience_s))


class _Proxy(GrpcStorageProxy):
    """Optuna's, which notices when the machine at the other end has vanished."""

    def _setup(self) -> None:
        import grpc  # type: ignore[import-untyped]
        from optuna.storages._grpc.auto_generated import api_pb2_grpc
        from optuna.storages._grpc.client import GrpcClientCache

        options = {
            "grpc.max_receive_message_length": -1,
            "grpc.max_send_message_length": -1,
            "grpc.keepalive_time_ms": 30_000,
            "grpc.keepalive_timeout_ms": 20_000,
            "grpc.max_reconnect_backoff_ms": 5_000,
        }
        self._channel = grpc.insecure_channel(f"{self._host}:{self._port}", options=list(options.items()))
        self._stub = api_pb2_grpc.StorageServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._cache = GrpcClientCache(self._stub)


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path.strip("/") or parts.username or parts.query:
        raise ValueError("a gRPC storage is written grpc://HOST:PORT, e.g. grpc://localhost:13000")
    return host, port or DEFAULT_GRPC_PORT


# ------------------------------------------------------------------------------------------------------------ journal


def _mend(path: Path) -> None:
    """Cut off a torn last line, so that the next one is not glued to it."""
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if _is_whole(line):
            continue
        if number < len(lines):
            raise ValueError(f"{path}, line {number}: not a line of an Optuna journal: {line[:60]!r}")
        warnings.warn(f"{path}: the last line is torn and was dropped: {line[:60]!r}", stacklevel=3)
        with path.open("r+b") as file:
            file.truncate(sum(map(len, lines[:-1])))


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
