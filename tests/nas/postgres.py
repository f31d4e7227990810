"""A real PostgreSQL on loopback, for as long as a test session: `from postgres import postgres`."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "s3cret/@{word}%"
"""With everything in it that has a meaning in URLs and templates."""


class Postgres:
    """A server that can be stopped and started; nothing is flushed to disk, so it is quick and forgets at a crash."""

    def __init__(self, folder: Path, binaries: Path, user: str | None) -> None:
        self._folder, self._binaries, self._user = folder, binaries, user
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://ridge:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"

    def initialise(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        command = [
            str(self._binaries / "initdb"), "-D", str(self._folder / "data"), "-U", "ridge", "-A", "scram-sha-256",
            "--pwfile", str(password), "--no-sync", "-E", "UTF8", "--locale=C",
        ]  # fmt: skip
        subprocess.run(
            command, check=True, capture_output=True, user=self._user, cwd=self._folder, env=_environment(), timeout=120
        )

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self._folder), "fsync": "off",
            "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "60",
        }  # fmt: skip
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self._folder, env=_environment()
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as a machine does that reboots: sessions are cut off."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(timeout=60)
            self._server = None

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg, which speaks to PostgreSQL, is not installed")
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    user = None
    if os.geteuid() == 0:
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        if user is None:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user to run it as")
    folder = Path(tempfile.mkdtemp(prefix="ridgeline-postgres-"))
    server = Postgres(folder, binaries, user)
    try:
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    on_path = shutil.which("initdb")
    places = [Path(on_path).parent] if on_path and shutil.which("postgres") else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places += [Path("/usr/pgsql/bin"), Path("/opt/homebrew/bin"), Path("/usr/local/pgsql/bin")]
    return next((each for each in places if (each / "initdb").exists() and (each / "postgres").exists()), None)


def _exists(user: str) -> bool:
    try:
        return pwd.getpwnam(user).pw_uid != 0
    except KeyError:
        return False


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}
