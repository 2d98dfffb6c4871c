"""Credentials: a node names a block, the agent loads it, nothing of it is ever seen."""

from __future__ import annotations

import json
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from engine.flows import node, workflow
from engine.test_runs import run
from penstock_blocks import NotificationTargets

pytestmark = pytest.mark.integration

_PASSWORD = "canary-password-7261"  # noqa: S105  it must not come out anywhere


@pytest.fixture
def inbox() -> Generator[tuple[int, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, received
    server.shutdown()
    thread.join()
    server.server_close()


def notify(block: str) -> str:
    inputs = {"title": "Disk full", "body": "db-1", "targets": ["block:team"]}
    return workflow([node("tell", "notifier", inputs, blocks={"team": block})])


async def test_node_uses_the_block_that_the_file_names(
    services: Any, inbox: tuple[int, list[dict[str, Any]]]
) -> None:
    port, received = inbox
    name = f"team-{uuid4().hex[:8]}"
    url = SecretStr(f"json://user:{_PASSWORD}@127.0.0.1:{port}/hook")
    await services.prepare()
    await NotificationTargets(urls=[url]).asave(name)

    shown = await run(services, notify(name))

    assert shown["state"] == "completed", shown["message"]
    assert [message["title"] for message in received] == ["Disk full"]
    assert _PASSWORD not in json.dumps(shown)


async def test_missing_block_fails_the_node_with_the_way_to_mend_it(services: Any) -> None:
    shown = await run(services, notify("no-such-block"))

    assert shown["state"] == "failed"
    assert "Prefect has no block named 'no-such-block'" in shown["message"]
