"""A PostgreSQL server of one's own for benchmarks and tests: real, on a free port, gone when its context ends.

    with PostgresServer.start() as server:
        server.url           # postgresql+psycopg://...
        server.kill(); server.restart()

It needs the server's programs (Debian: postgresql); as root it runs as the user postgres, since PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def programs() -> Path | None:
    """The folder of initdb and postgres; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


class PostgresServer:
    """One server with its data in `folder`; see `start`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[PostgresServer]:
        """A new server with an empty database."""
        with tempfile.TemporaryDirectory(prefix="igc-pg-") as name:
            folder = Path(name)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            server = cls(folder / "data", port)
            if os.geteuid() == 0:
                shutil.chown(folder, "postgres")
            server._run("initdb", "-D", str(server.folder), "-U", "igc", "--auth=trust", "--no-sync", "-E", "UTF8")
            server.restart()
            try:
                yield server
            finally:
                server.kill(signal.SIGQUIT)

    @property
    def url(self) -> str:
        """With a password that the server does not ask for, so that tests can look for it where it must not be."""
        return f"postgresql+psycopg://igc:sesame@127.0.0.1:{self.port}/postgres"

    def restart(self) -> None:
        """Start it on the data that are there, and wait until it answers."""
        options = ("fsync=off", "unix_socket_directories=", "max_connections=100")
        settings = [part for option in options for part in ("-c", option)]
        command = self._command("postgres", "-D", str(self.folder), "-h", "127.0.0.1", "-p", str(self.port), *settings)
        with open(self.folder.with_name("log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        ready = self._command("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-q")
        end = time.monotonic() + 60
        while subprocess.run(ready, check=False, cwd="/").returncode != 0:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start: {self.folder.with_name('log').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the server with all its processes."""
        if self.process is None:
            return
        main = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(main)], capture_output=True, text=True, check=False
        )
        for pid in (main, *map(int, children.stdout.split())) if how == signal.SIGKILL else (main,):
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        self.process.wait()
        self.process = None

    def _run(self, *command: str) -> None:
        done = subprocess.run(self._command(*command), capture_output=True, text=True, check=False, cwd="/")
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stderr}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        place = programs()
        if place is None:
            raise RuntimeError("PostgreSQL is not installed (Debian: apt install postgresql)")
        command = [str(place / program), *arguments]
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command] if _root() else command


def _root() -> bool:
    return os.geteuid() == 0
