from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from penstock.errors import ChildError
from penstock.stack.processes import Child, ChildSpec

READY = "import penstock.lifeline as l; l.report_ready()\n"


def child(tmp_path: Path, code: str, said: list[str]) -> Child:
    spec = ChildSpec("thing", ("-c", code), {}, tmp_path / "thing.log")
    return Child(spec, said.append)


async def test_child_is_ready_when_it_says_so_and_ends_when_told(tmp_path: Path) -> None:
    thing = child(tmp_path, READY + "import time; time.sleep(60)", [])

    thing.start()
    await thing.ready(20)
    pid = thing.pid
    await thing.stop()

    assert pid is not None
    assert not psutil.pid_exists(pid)


async def test_child_that_ends_before_it_is_ready_fails_with_its_log(tmp_path: Path) -> None:
    thing = child(tmp_path, "raise SystemExit('no room')", [])

    thing.start()
    with pytest.raises(ChildError, match=r"(?s)exit code 1.*no room"):
        await thing.ready(20)
    await thing.stop()


async def test_child_that_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    thing = child(tmp_path, READY + "import time; time.sleep(60)", said)
    thing.start()
    await thing.ready(20)
    first = thing.pid
    assert first is not None

    psutil.Process(first).kill()
    for _ in range(400):
        if thing.pid not in {None, first}:
            break
        await asyncio.sleep(0.05)
    await thing.stop()

    assert said == ["thing ended with exit code -9; starting it again"]


async def test_child_takes_its_whole_group_along(tmp_path: Path) -> None:
    spawn = "import subprocess; p = subprocess.Popen(['sleep', '60'])\n"
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))\n"
    thing = child(tmp_path, spawn + note + READY + "import time; time.sleep(60)", [])
    thing.start()
    await thing.ready(20)

    await thing.stop()

    grandchild = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


async def test_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    thing = child(tmp_path, "import time; time.sleep(60)", [])

    thing.start()
    with pytest.raises(ChildError, match=r"is not ready after 0\.5 s"):
        await thing.ready(0.5)
    await thing.stop()
