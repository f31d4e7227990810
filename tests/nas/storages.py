"""Every kind of storage, opened twice as two workers would: `from storages import two_storages`."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas.storage import close_storage, storage_from

KINDS = ("memory", "journal", "sqlite", "postgres", "grpc")

Open = Callable[[], BaseStorage]


@pytest.fixture(scope="module", params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Opens the same storage once more, as another worker would."""
    folder = tmp_path_factory.mktemp(request.param)
    opened: list[BaseStorage] = []
    server = None
    if request.param == "memory":
        memory = storage_from(None)
        make: Open = lambda: memory  # noqa: E731
    elif request.param == "journal":
        make = lambda: JournalStorage(JournalFileBackend(str(folder / "study.journal")))  # noqa: E731
    elif request.param == "sqlite":
        make = lambda: storage_from(f"sqlite:///{folder / 'study.db'}")  # noqa: E731
    elif request.param == "postgres":
        url = request.getfixturevalue("postgres").url
        make = lambda: storage_from(url)  # noqa: E731
    else:
        pytest.importorskip("grpc", reason="grpcio is not installed")
        port = free_port()
        behind = storage_from(f"sqlite:///{folder / 'behind.db'}")
        opened.append(behind)
        server = serve(behind, port)
        make = lambda: storage_from(f"grpc://127.0.0.1:{port}")  # noqa: E731

    def open_once_more() -> BaseStorage:
        opened.append(make())
        return opened[-1]

    yield open_once_more
    for storage in reversed(opened):
        close_storage(storage)
    if server is not None:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def two_storages(opener: Open) -> tuple[BaseStorage, BaseStorage]:
    return opener(), opener()


def serve(storage: BaseStorage, port: int):  # type: ignore[no-untyped-def]
    """Optuna's gRPC proxy in this process."""
    from optuna.storages._grpc.server import make_server

    server = make_server(storage, "127.0.0.1", port, ThreadPoolExecutor(8))
    server.start()
    return server


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
