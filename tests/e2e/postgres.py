"""A PostgreSQL on loopback for the length of a test session: what a Prefect server that several workers talk to needs.

On SQLite such a server stands still for a minute again and again ("database is locked"). The distribution's package is used
where it is installed (Debian: apt-get install postgresql); elsewhere tests that need it skip and say so.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import embedded, service, settings
from tests.e2e.server import until

MISSING = "there is no PostgreSQL on this machine (Debian: apt-get install postgresql)"
START_SECONDS, STOP_SECONDS = 60.0, 20.0
UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")  # nothing here outlives the session
SERVERS = ("postgres", "nobody")
"""Users to run it as where the tests run as root, which PostgreSQL refuses; the first that exists."""


def programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version where there are several; None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return debian[-1].parent if debian else None


class Postgres:
    """One server with an empty database; everything it writes lies in `folder`."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self.folder, self.bin_folder, self.port = folder, bin_folder, embedded.free_port()
        self.log = folder / "postgres.log"

    @property
    def url(self) -> str:
        """As PREFECT_API_DATABASE_CONNECTION_URL takes it."""
        return f"postgresql+asyncpg://tutelage@{settings.LOOPBACK}:{self.port}/postgres"

    def start(self) -> None:
        """Make the database and serve it; fails the test with what PostgreSQL says where it does not."""
        data = self.folder / "data"
        self._run("initdb", "-D", str(data), "-U", "tutelage", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        choices = [f"listen_addresses={settings.LOOPBACK}", f"port={self.port}", "unix_socket_directories=", *UNSAFE]
        parent = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin_folder / "postgres", "-D", data, *(word for choice in choices for word in ("-c", choice))],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: service.end_with_parent(parent, signal.SIGINT),
                **_somebody(),
            )
        until(lambda: self.answers or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.log.read_text()

    @property
    def answers(self) -> bool:
        """Whether it accepts connections."""
        words = [str(self.bin_folder / "pg_isready"), "-q", "-h", settings.LOOPBACK, "-p", str(self.port)]
        return subprocess.run(words).returncode == 0

    def stop(self) -> None:
        """Close its connections and end."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self.process.kill()

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self.bin_folder / program, *words], cwd=self.folder, capture_output=True, text=True, **_somebody()
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _somebody() -> dict[str, Any]:
    """For subprocess: a user who is not root."""
    if os.getuid():
        return {}
    name = next(user.pw_name for user in map(_user, SERVERS) if user)
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def _user(name: str) -> "pwd.struct_passwd | None":
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


@contextlib.contextmanager
def serving(bin_folder: Path) -> Iterator[Postgres]:
    """A server for a `with`."""
    with tempfile.TemporaryDirectory(prefix="tutelage-postgres-") as name:  # pytest's own folders are root's alone
        if (owner := _somebody().get("user")) is not None:
            shutil.chown(name, owner)
        one = Postgres(Path(name), bin_folder)
        one.start()
        try:
            yield one
        finally:
            one.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of our own; skips where there is none on this machine."""
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip(MISSING)
    with serving(bin_folder) as one:
        yield one
