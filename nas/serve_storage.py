"""Optuna's gRPC proxy before a database: `python -m nas.serve_storage storage=postgresql://user:password@host/name`.

One process then speaks to the database for all workers, which need no driver and no password of it, and reads each
trial once for all of them: `python -m nas.search storage=grpc://HOST:13000 ...`. The proxy asks nobody who they are,
so it listens on this machine only, unless `host=0.0.0.0` opens it to a network that you trust.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from nas.cli import reported_errors

USAGE = "python -m nas.serve_storage storage=URL [host=localhost] [port=13000]"
NUM_THREADS = 32


def main(argv: Sequence[str]) -> None:
    """Serve until Ctrl-C.

    Raises:
        ValueError: an argument that is none of ours, a storage that cannot be opened, a port that is taken.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import run_grpc_proxy_server

    from nas.patience import PatientStorage
    from nas.storage import DEFAULT_GRPC_PORT, URL_VARIABLE, shown_url, storage_from
    from predictors.mapping import check_keys

    arguments = dict(argument.partition("=")[::2] for argument in argv)
    check_keys(arguments, ("storage", "host", "port"), (), f"usage: {USAGE}")
    url = arguments.get("storage") or os.environ.get(URL_VARIABLE)
    if not url or url.startswith("grpc://"):
        raise ValueError(f"which database shall be served? usage: {USAGE}; or set {URL_VARIABLE}")
    host, port = arguments.get("host", "localhost"), arguments.get("port", str(DEFAULT_GRPC_PORT))
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"port must be 1 to 65535, found {port!r}")
    storage = storage_from(url)
    if isinstance(storage, PatientStorage):  # the workers wait for the database, and they tell why
        storage = PatientStorage(storage.inner, replace(storage.patience, patience_s=0.0))
    print(f"serving {shown_url(url)}: storage=grpc://{host}:{port}; Ctrl-C ends it", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            run_grpc_proxy_server(storage, host=host, port=int(port), thread_pool=ThreadPoolExecutor(NUM_THREADS))
        except RuntimeError as error:
            raise ValueError(f"{host}:{port} cannot be listened on: {error}") from None


if __name__ == "__main__":
    with reported_errors():
        main(sys.argv[1:])
