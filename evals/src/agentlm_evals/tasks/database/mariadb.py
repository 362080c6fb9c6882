"""A private MariaDB: started for one worker on a unix socket without a network, ended with its owner. Knows no items.

Its data directory is a copy of a template that is made once (4 s) and kept in the user's cache; the copy starts in half a
second. While a statement runs its files are watched: one that fills the disk is stopped, and the server replaced.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]

from agentlm_evals.errors import RequirementError
from agentlm_evals.tasks.database.engine import STATEMENT_SECONDS, EngineError
from agentlm_evals.tasks.database.mysql import SQL_MODE, MySQLEngine

PROGRAMS = ("mariadbd", "mysqld")
HOW = "install MariaDB (apt-get install mariadb-server-core), or choose -T database.engine=sqlite or -T database.url=mysql://…"
INSTALL_SECONDS = 120
START_SECONDS = 30.0
STOP_SECONDS = 5.0
MOST_BYTES = 256 << 20
"""Of a server's files while the model's statement runs; a fresh one has 25 MB. InnoDB's own bounds would end it."""
MOST_MEMORY = 512 << 20
"""Of a server; one that runs an item's statements has 100 MB. A session may raise its own bounds without a right to."""
WATCH_SECONDS = 0.1
MEMORY = Path("/dev/shm")
_STORAGE = ("--innodb-log-file-size=4M", "--innodb-data-file-path=ibdata1:12M:autoextend")
_UNPRIVILEGED = "nobody"
"""Who the server runs as when we are root: SQL is a stranger's."""
_PATH = (*os.defpath.split(os.pathsep), "/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/sbin")


def _which(*names: str) -> str | None:
    """A program's path; servers live in sbin, which is not on everybody's path."""
    for name in names:
        if found := shutil.which(name) or shutil.which(name, path=os.pathsep.join(_PATH)):
            return found
    return None


def server_program() -> str | None:
    """The server, where it is installed and is MariaDB."""
    found = _which(*PROGRAMS)
    if found is None or _which("mariadb-install-db") is None:
        return None
    return found if "MariaDB" in server_version(found) else None


def server_version(program: str) -> str:
    """What the program says of itself."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30).stdout.strip()


def default_cache() -> Path:
    """Where the template lies unless somebody says otherwise."""
    return Path.home() / ".cache" / "agentlm" / "mariadb"


def _home() -> str | None:
    """Where servers live; None: the system's folder of temporary files."""
    if not os.access(MEMORY, os.W_OK | os.X_OK):
        return None
    state = os.statvfs(MEMORY)
    return str(MEMORY) if state.f_bavail * state.f_frsize > 2 * MOST_BYTES else None


def _as_user() -> Sequence[str]:
    return (f"--user={_UNPRIVILEGED}",) if os.geteuid() == 0 else ()


def template(program: str, cache: Path) -> Path:
    """The data directory that servers are copied from; made if it is not there.

    Raises:
        RequirementError: MariaDB's own set-up program failed.
    """
    version = "".join(
        c if c.isalnum() or c in ".-" else "_" for c in server_version(program).split("Ver ")[-1]
    )
    ready = cache / f"template-2-{version}"
    if ready.is_dir():
        return ready
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.is_dir():
            return ready
        # Made below /tmp: the server's own user cannot enter somebody's home.
        with tempfile.TemporaryDirectory(prefix="agentlm-mariadb-") as directory:
            Path(directory).chmod(0o711)
            data = Path(directory, "data")
            install = _which("mariadb-install-db")
            assert install is not None
            command = [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *_as_user(),
                *_STORAGE,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            if done.returncode != 0:
                words = (done.stderr or done.stdout).strip().splitlines()[-3:]
                raise RequirementError(f"mariadb-install-db failed: {' / '.join(words)}. {HOW}")
            with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as made:
                shutil.copytree(data, Path(made, "template"))
                Path(made, "template").replace(ready)
    return ready


class PrivateMariaDB(MySQLEngine):
    """One server of our own.

    Raises:
        RequirementError: MariaDB is not installed.
        EngineError: The server did not start; the message ends with its last words.
    """

    def __init__(self, cache: Path | None = None) -> None:
        program = server_program()
        if program is None:
            raise RequirementError(f"no MariaDB server is installed: {HOW}")
        source = template(program, cache or default_cache())
        # Short: a unix socket's path may have 107 bytes.
        # In memory where there is room: databases come and go with every item.
        self.folder = Path(tempfile.mkdtemp(prefix="agentlm-db-", dir=_home()))
        try:
            self.process = self._start(program, source)
            self._wait()
            super().__init__(self._account(), must_restrict=True)
        except BaseException:
            self._stop()
            raise

    @contextmanager
    def watched(self, connection: int) -> Iterator[None]:
        """Ends the connection if the server's files or its memory outgrow their bounds."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(WATCH_SECONDS):
                if self.is_full():
                    self.end_connection(connection)
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def is_full(self) -> bool:
        """Whether files or memory have outgrown their bounds: some files never shrink, and no memory need be given back."""
        return self._bytes() > MOST_BYTES or self._memory() > MOST_MEMORY

    def _memory(self) -> int:
        """Bytes of the server in memory; 0 where nobody can say."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = (self.folder / "pid").read_text().strip()
            return int(Path("/proc", pid, "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def _bytes(self) -> int:
        total = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_blocks * 512
        return total

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def _account(self) -> dict[str, Any]:
        # The driver would read the system's certificates first, 50 ms each time, for a socket that needs none.
        return {"unix_socket": str(self._socket), "user": "root", "ssl_disabled": True}

    def _start(self, program: str, source: Path) -> "subprocess.Popen[bytes]":
        self.process = None  # type: ignore[assignment]
        data = self.folder / "data"
        shutil.copytree(source, data)
        files = self.folder / "files"
        files.mkdir()
        if os.geteuid() == 0:
            self.folder.chmod(0o711)
            for path in (data, *data.rglob("*"), files):
                shutil.chown(path, _UNPRIVILEGED)
            shutil.chown(self.folder, _UNPRIVILEGED)
        log = (self.folder / "log").open("wb")
        command = [
            *(sys.executable, "-m", "agentlm_evals.sandbox.guardian", str(self.folder), str(STOP_SECONDS)),
            *(program, "--no-defaults", f"--datadir={data}", f"--socket={self._socket}", "--skip-networking"),
            *_as_user(),
            *_STORAGE,
            *(f"--pid-file={self.folder / 'pid'}", f"--tmpdir={files}", f"--secure-file-priv={files}"),
            *("--innodb-temp-data-file-path=ibtmp1:12M:autoextend:max:128M", "--tmp-disk-table-size=64M"),
            *(
                "--innodb-buffer-pool-size=16M",
                "--key-buffer-size=1M",
                "--performance-schema=0",
                "--aria-pagecache-buffer-size=8M",
            ),
            *(
                "--innodb-flush-log-at-trx-commit=0",
                "--sync-binlog=0",
                "--skip-log-bin",
                "--skip-symbolic-links",
            ),
            *(
                f"--max-statement-time={STATEMENT_SECONDS - 2}",
                "--max-connections=20",
                "--lower-case-table-names=0",
            ),
            *(
                "--character-set-server=utf8mb4",
                "--collation-server=utf8mb4_uca1400_ai_ci",
                f"--sql-mode={SQL_MODE}",
            ),
            *("--local-infile=0", "--event-scheduler=OFF", "--skip-name-resolve"),
        ]
        with log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(pymysql.err.MySQLError):
                pymysql.connect(**self._account()).close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"mariadbd did not start: {self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return "its log is gone"
        telling = [line for line in lines if "ERROR" in line] or lines
        return " / ".join(telling[-3:])

    def _stop(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS + 5)
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Ends the server and removes its data."""
        super().close()
        self._stop()
