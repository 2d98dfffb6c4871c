from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from penstock.errors import StoreError
from penstock.store import embedded
from penstock.store.database import Database
from penstock.store.embedded import Programs, Server, running, start
from penstock.store.place import place_for
from support.postgres import FAST

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextmanager
def started(home: Path, settings: Mapping[str, str] = FAST) -> Generator[Server]:
    server = start(home, tied=True, settings=settings)
    try:
        yield server
    finally:
        server.stop()


async def ask(server: Server, statement: str) -> list[object]:
    async with Database(server.url, retry_s=0) as database:
        rows = await database.fetch(text(statement))
        return [next(iter(row.values())) for row in rows]


def wait_for_end(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(15)


def kill_hard(server: Server) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    wait_for_end(server.pid)


def folders_of(server: Server) -> set[str]:
    return {path.name for path in server.place.area.iterdir()}


async def test_start_gives_a_database_with_pg_trgm_and_a_plain_role(postgres_server: Server) -> None:
    assert "pg_trgm" in await ask(postgres_server, "SELECT extname FROM pg_extension")
    assert await ask(postgres_server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [False]


async def test_start_listens_on_no_network(postgres_server: Server) -> None:
    assert await ask(postgres_server, "SHOW listen_addresses") == [""]


def test_start_keeps_others_out_of_data_and_socket(postgres_server: Server) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (postgres_server.data_dir, postgres_server.sockets)}

    assert modes == {0o700}


@as_root
@pytest.mark.parametrize("uid", [65534, 12345])
def test_start_as_root_keeps_other_accounts_out(postgres_server: Server, uid: int) -> None:
    looked = subprocess.run(
        ["/bin/ls", postgres_server.place.area / "run"],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        check=False,
        cwd="/",
    )

    assert looked.returncode != 0


def test_second_start_attaches(home: Path) -> None:
    with started(home) as server:
        again = start(home)

        assert (again.pid, again.url, again.started) == (server.pid, server.url, False)


async def test_running_leaves_a_server_that_ran_before(home: Path) -> None:
    with started(home) as server:
        async with running(home):
            pass

        assert await ask(server, "SELECT 1") == [1]


def test_concurrent_starts_start_one_server(home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(partial(start, settings=FAST), [home] * 4))
    servers[0].stop()

    assert len({server.pid for server in servers}) == 1
    assert sum(server.started for server in servers) == 1


async def test_data_survives_a_restart(home: Path) -> None:
    with started(home) as server:
        await ask(server, "CREATE TABLE kept AS SELECT 7 AS value")
    with started(home) as server:
        assert await ask(server, "SELECT value FROM kept") == [7]


async def test_data_survives_kill_9_of_every_process(home: Path) -> None:
    with started(home, {}) as server:
        await ask(server, "CREATE TABLE kept AS SELECT 7 AS value")
        kill_hard(server)
        with started(home) as again:
            assert again.started
            assert await ask(again, "SELECT value FROM kept") == [7]


async def test_start_waits_for_children_of_a_killed_postmaster(home: Path) -> None:
    with started(home) as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_for_end(server.pid)
        with started(home) as again:
            assert await ask(again, "SELECT 1") == [1]


def test_start_is_not_fooled_by_a_pid_that_is_another_programs(home: Path) -> None:
    with started(home) as server:
        kill_hard(server)
        for lock in (server.data_dir / "postmaster.pid", server.sockets / ".s.PGSQL.5432.lock"):
            lines = lock.read_text().splitlines()
            lock.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        with started(home) as again:
            assert again.started


def test_stop_twice_is_harmless(home: Path) -> None:
    with started(home) as server:
        server.stop()
        server.stop()

        assert not (server.data_dir / "postmaster.pid").exists()


def test_tied_server_ends_with_its_starter(home: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from penstock.store.embedded import start;"
        "print(start(Path(sys.argv[1]), tied=True).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()

    wait_for_end(pid)
    assert not (home / "postgres" / "data" / "postmaster.pid").exists()


def test_failing_initdb_leaves_nothing_half_made(home: Path) -> None:
    folder = home / "bin"
    folder.mkdir()
    broken = {"initdb": 'touch "$2/PG_VERSION"; echo no room >&2; exit 1', "postgres": "echo 18"}
    for name, code in broken.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    place = place_for(home)

    with pytest.raises(StoreError, match="no room"):
        embedded.initialise(place, Programs(folder))
    assert [path.name for path in place.area.iterdir() if path.name.startswith(("data", "fresh"))] == []


def test_start_sweeps_what_a_cut_off_initdb_left(home: Path) -> None:
    leftover = place_for(home).area / "fresh-cut-off"
    leftover.mkdir()
    with started(home) as server:
        assert folders_of(server) >= {"data", "log"}
        assert not leftover.exists()


def test_other_version_of_the_data_is_refused_with_the_mend(home: Path) -> None:
    place = place_for(home)
    place.make_folder(place.data)
    (place.data / "PG_VERSION").write_text("9\n")

    with pytest.raises(StoreError, match="install PostgreSQL 9"):
        start(home)


def test_failing_start_tells_what_the_log_says(home: Path) -> None:
    with pytest.raises(StoreError, match="shared_buffers"):
        start(home, settings={"shared_buffers": "plenty"})


async def test_long_home_gets_a_short_socket(home: Path) -> None:
    deep = home / ("x" * 100)
    with started(deep) as server:
        assert len(str(server.sockets)) < 90
        assert await ask(server, "SELECT 1") == [1]
    shutil.rmtree(server.sockets)


@as_root
def test_home_out_of_reach_is_linked_to_a_shared_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with started(tmp_path) as server:
        assert (tmp_path / "postgres").resolve() == server.place.area
        assert not server.place.area.is_relative_to(tmp_path)
        assert start(tmp_path).pid == server.pid
    shutil.rmtree(server.place.area)


@as_root
def test_programs_out_of_reach_are_copied(home: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    wheel = embedded.program_folders()[0].parents[1]
    for folder in (wheel, *wheel.parent.glob(f"{wheel.name}.libs")):
        shutil.copytree(folder, tmp_path / folder.name)
    place = place_for(home)
    hidden = Programs(tmp_path / wheel.name / "pginstall" / "bin")

    programs = embedded.within_reach(hidden, place)
    embedded.initialise(place, programs)

    assert programs.folder.is_relative_to(place.area)
    assert (place.data / "PG_VERSION").read_text().strip() == str(programs.major)


def test_log_is_kept_in_the_home(home: Path) -> None:
    with started(home) as server:
        deadline = time.monotonic() + 5
        while not list(server.log.glob("postgresql-*.log")) and time.monotonic() < deadline:
            time.sleep(0.05)

        assert server.log.is_relative_to(home)
        assert list(server.log.glob("postgresql-*.log"))
