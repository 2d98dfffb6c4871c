from __future__ import annotations

import asyncio
import time

import pytest

from penstock.engine.watchdog import LoopWatchdog


def block_here(seconds: float) -> None:
    time.sleep(seconds)


async def test_watchdog_says_where_the_loop_is_blocked(caplog: pytest.LogCaptureFixture) -> None:
    async with LoopWatchdog(blocked_s=0.2):
        block_here(0.6)

    assert "the event loop has been blocked" in caplog.text
    assert "block_here" in caplog.text
    assert len(caplog.records) == 1


async def test_watchdog_is_silent_while_the_loop_turns(caplog: pytest.LogCaptureFixture) -> None:
    async with LoopWatchdog(blocked_s=0.5):
        await asyncio.sleep(0.8)

    assert caplog.text == ""
