from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from penstock.errors import AgentFailed, AgentRetry, InputInvalid
from penstock.testing import AgentHarness
from penstock_agents.notifier import notify
from penstock_blocks.notification import NotificationTargets
from penstock_blocks.sending import line, plain

# Apprise imports this module of the standard library for its e-mail plugin.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
_TOKEN = "t0ken-in-the-address"  # noqa: S105  a canary


class Hook:
    """A webhook on loopback that answers with the codes it is told."""

    def __init__(self) -> None:
        self.codes = [200]
        self.bodies: list[dict[str, Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Address in Apprise's form, with a credential in it."""
        return f"json://user:{_TOKEN}@127.0.0.1:{self.port}/{_TOKEN}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length:")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(size)))
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        writer.write(f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


def _harness(*urls: str, dry_run: bool = False) -> AgentHarness:
    blocks = {"ops": NotificationTargets(urls=[SecretStr(url) for url in urls])} if urls else {}
    return AgentHarness(notify, blocks=blocks, dry_run=dry_run)


async def test_notify_logs_by_default() -> None:
    harness = _harness()

    output = await harness.run({"title": "Disk full", "body": "db-1", "level": "warning"})

    assert output.delivered == ["log"]
    assert harness.logs[0].facts == {"title": "Disk full", "body": "db-1", "level": "warning"}


async def test_notify_keeps_a_file_with_the_run() -> None:
    harness = _harness()

    output = await harness.run({"targets": ["file:a/b.txt"], "title": "T", "body": "B"})

    assert output.delivered == ["file:a/b.txt"]
    assert harness.artifacts[0].name == "notification-a-b-txt"
    assert harness.artifacts[0].data == "[info] T\n\nB\n"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
async def test_notify_file_stays_in_its_folder(path: str) -> None:
    with pytest.raises(AgentFailed, match="leads out"):
        await _harness().run({"targets": [f"file:{path}"], "title": "T"})


async def test_notify_sends_through_a_block(hook: Hook) -> None:
    output = await _harness(hook.url).run(
        {"targets": ["block:ops"], "title": "T", "body": "B", "level": "failure"}
    )

    assert output.delivered == ["block:ops"]
    assert (hook.bodies[0]["title"], hook.bodies[0]["message"]) == ("T", "B")
    assert hook.bodies[0]["type"] == "failure"


async def test_notify_reports_the_targets_that_failed(hook: Hook) -> None:
    hook.codes = [403]

    output = await _harness(hook.url).run({"targets": ["log", "block:ops", "block:none"], "title": "T"})

    assert output.delivered == ["log"]
    reasons = {item.target: item.reason for item in output.failed}
    assert reasons["block:ops"] == "1 of 1 addresses failed: the service refused it"
    assert "no block 'none'" in reasons["block:none"]


@pytest.mark.parametrize(("code", "kind"), [(503, AgentRetry), (429, AgentRetry), (401, AgentFailed)])
async def test_notify_all_failed_is_retried_when_that_may_help(
    code: int, kind: type[Exception], hook: Hook
) -> None:
    hook.codes = [code]

    with pytest.raises(kind, match="nobody got the message"):
        await _harness(hook.url).run({"targets": ["block:ops"], "title": "T"})


async def test_notify_unreachable_service_is_retried() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()

    with pytest.raises(AgentRetry):
        await _harness(f"json://127.0.0.1:{port}").run({"targets": ["block:ops"], "title": "T"})


async def test_notify_never_tells_an_address(
    hook: Hook, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.codes = [404]
    harness = _harness(hook.url, f"nonsense://{_TOKEN}")

    with pytest.raises(AgentFailed) as caught:
        await harness.run({"targets": ["block:ops"], "title": "T"})

    told = [
        str(caught.value),
        repr(caught.value.details),
        repr(harness.logs),
        caplog.text,
        *capfd.readouterr(),
    ]
    assert not any(_TOKEN in text for text in told)
    assert _TOKEN not in repr(NotificationTargets(urls=[SecretStr(hook.url)]))


async def test_notify_dry_run_sends_nothing(hook: Hook) -> None:
    output = await _harness(hook.url, dry_run=True).run({"targets": ["block:ops"], "title": "T"})

    assert (output.delivered, output.failed, hook.bodies) == ([], [], [])


async def test_notify_plan_names_targets_and_text(hook: Hook) -> None:
    planned = await _harness(hook.url).plan({"targets": ["block:ops", "log", "log"], "title": "T\nU"})

    assert planned.targets == ("block:ops", "log")
    assert planned.data["title"] == "T U"
    assert hook.bodies == []


async def test_notify_wrong_block_is_named() -> None:
    with pytest.raises(AgentFailed, match="holds no notification addresses"):
        await AgentHarness(notify, blocks={"ops": object()}).run({"targets": ["block:ops"], "title": "T"})


@pytest.mark.parametrize("target", ["slack://a/b/c", "block:", "file:", "block:a/b", "file:a\nb", "log:x"])
async def test_notify_refuses_addresses_and_odd_targets(target: str) -> None:
    with pytest.raises(InputInvalid):
        await _harness().run({"targets": [target], "title": "T"})


async def test_notify_needs_something_to_say() -> None:
    with pytest.raises(InputInvalid, match="needs a title or a body"):
        await _harness().run({"title": " "})


def test_plain_strips_controls_and_breaks_mentions() -> None:
    text = plain("a\x1b[31m\r\nb\x00 @everyone <!channel> \u202egnp", 1000)

    assert text == "a[31m\nb @\u200beveryone <\u200b!channel> gnp"


def test_plain_and_line_cap_the_length() -> None:
    assert len(plain("x" * 50, 10)) == 10
    assert plain("x" * 50, 10).endswith("\u2026")
    assert len(line("y " * 5000)) <= 250
