"""The Prefect UI behind the login: what goes on to Prefect, what does not, and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from starlette.requests import ClientDisconnect

from gateway.console_kit import Desk, open_desk
from gateway.prefect_kit import SCHEMA, FakePrefect, desk_before, fake_prefect, listening, send
from penstock.engine.environment import ui_url
from penstock.engine.links import Links
from penstock.gateway.prefect_rules import Access, access_of, is_plain
from penstock.gateway.prefect_ui import router
from penstock.gateway.prefect_upstream import Upstream, open_upstream
from penstock.settings import Settings
from penstock.store.database import Database
from support.stack import free_port

EVIL = {"Origin": "http://evil.example"}
RUN = uuid4()


@pytest.fixture
async def prefect() -> AsyncGenerator[FakePrefect]:
    async with fake_prefect() as fake:
        yield fake


@pytest.fixture
async def desk(database: Database, tmp_path: Path, prefect: FakePrefect) -> AsyncGenerator[Desk]:
    async with desk_before(prefect, database, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "access"),
    [
        ("GET", "flow_runs/x", Access.READ),
        ("HEAD", "health", Access.READ),
        ("POST", "flow_runs/filter", Access.READ),
        ("POST", "flow_runs/paginate/", Access.READ),
        ("POST", "ui/flow_runs/count-task-runs", Access.READ),
        ("POST", "ui/task_runs/dashboard/counts", Access.READ),
        ("POST", "work_pools/main/queues/filter", Access.READ),
        ("POST", "events/count-by/time", Access.READ),
        ("POST", "block_documents/filter", Access.BLOCKS),
        ("POST", "block_documents/filter/", Access.BLOCKS),
        ("POST", "flow_runs/x/resume", Access.RESUME),
        ("POST", "flow_runs/x/resume/", Access.RESUME),
        ("POST", "flow_runs/x/set_state", Access.CHANGE),
        ("POST", "flow_runs/bulk_set_state", Access.CHANGE),
        ("POST", "flow_runs/bulk_delete", Access.CHANGE),
        ("POST", "deployments/x/create_flow_run", Access.CHANGE),
        ("POST", "deployments/get_scheduled_flow_runs", Access.CHANGE),
        ("POST", "flow_runs/", Access.CHANGE),
        ("POST", "events", Access.CHANGE),
        ("POST", "nobody/knows/this", Access.CHANGE),
        ("PUT", "flow_runs/filter", Access.CHANGE),
        ("DELETE", "flow_runs/x", Access.CHANGE),
        ("PATCH", "flow_runs/x", Access.CHANGE),
        ("GET", "flow_runs/x/input/round-1-schema", Access.FORM),
        ("GET", "flow_runs/x/input/round-1-description", Access.FORM),
        ("GET", "flow_runs/x/input/round-1-response", Access.CLOSED),
        ("GET", "flow_runs/x/input", Access.CLOSED),
        ("POST", "flow_runs/x/input", Access.CLOSED),
        ("POST", "flow_runs/x/input/filter", Access.CLOSED),
        ("POST", "flow_runs/x/input/round-1-schema", Access.CLOSED),
        ("DELETE", "flow_runs/x/input/round-1-schema", Access.CLOSED),
    ],
)
def test_every_request_has_an_access(method: str, path: str, access: Access) -> None:
    assert access_of(method, path) is access


@pytest.mark.parametrize("path", ["", "health", "flow_runs/", "assets/index-B_1.js", "flow_runs/täst x"])
def test_plain_paths(path: str) -> None:
    assert is_plain(path)


@pytest.mark.parametrize(
    "path", ["/", "a//b", "a//", "./a", "a/..", "a/../b", "a\\b", "a\nb", "a\x00", "a/./"]
)
def test_paths_that_two_servers_may_read_differently(path: str) -> None:
    assert not is_plain(path)


async def test_pages_lead_to_the_login_and_scripts_are_told(desk: Desk, prefect: FakePrefect) -> None:
    page = await send(desk, "GET", "/runs?state=Suspended", person=None)
    script = await send(desk, "POST", "/api/flow_runs/filter", person=None)

    assert (page.status_code, page.headers["location"]) == (
        303,
        "/login?next=%2Fprefect%2Fruns%3Fstate%3DSuspended",
    )
    assert (script.status_code, script.json()["type"]) == (401, "urn:penstock:not_signed_in")
    assert prefect.asked == []


async def test_page_comes_with_a_policy_of_its_own_and_nothing_else_of_prefect(
    desk: Desk, prefect: FakePrefect
) -> None:
    page = await send(desk, "GET", "/")

    assert (page.status_code, page.text) == (200, "<title>Prefect</title>")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self';" in policy
    assert "script-src 'self' 'unsafe-eval';" in policy
    assert "style-src 'self' 'unsafe-inline';" in policy
    assert "*" not in policy
    assert "http" not in policy
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["etag"] == '"1"'
    assert page.headers["x-frame-options"] == "DENY"
    gone = {"set-cookie", "access-control-allow-origin", "server", "connection", "x-hop"}
    assert not gone & set(page.headers)
    assert prefect.paths == ["GET /prefect/"]
    inbox = await send(desk, "GET", "/api/health")
    assert "'unsafe" not in inbox.headers["content-security-policy"]
    assert inbox.headers["cache-control"] == "no-store"


async def test_prefect_sees_no_credentials_and_no_hops(desk: Desk, prefect: FakePrefect) -> None:
    token = await desk.session("ada")
    headers = {
        "Authorization": f"Bearer {token}",
        "Cookie": f"penstock_session={token}; penstock_login=x; prefect_ui_version=v2; other=1",
        "Connection": "x-prefect-hop",
        "Proxy-Authorization": "Basic x",
        "TE": "trailers",
        "Forwarded": "for=1.2.3.4",
        "X-Forwarded-Host": "evil.example",
        "X-Prefect-Api-Version": "0.8.4",
        "If-None-Match": '"1"',
        "Accept": "text/html",
        "User-Agent": "bröwser",
    }
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    async with desk.client(None) as client:
        answer = await client.get("/prefect/api/flows?limit=2&name=a%20b", headers=sent)

    assert answer.json() == {"asked": "/api/flows"}
    (asked,) = prefect.asked
    assert asked.headers["host"] == f"127.0.0.1:{prefect.port}"
    assert asked.headers["cookie"] == "prefect_ui_version=v2"
    assert asked.query == "limit=2&name=a+b"
    assert (asked.headers["x-prefect-api-version"], asked.headers["accept"]) == ("0.8.4", "text/html")
    assert asked.headers["if-none-match"] == '"1"'
    refused = {"authorization", "proxy-authorization", "te", "forwarded", "x-forwarded-host"}
    assert not refused & set(asked.headers)
    assert token not in str(asked)


async def test_auth_string_of_prefect_is_added(desk: Desk, prefect: FakePrefect) -> None:
    with temporary_settings({PREFECT_API_AUTH_STRING: "admin:pw"}):
        await send(desk, "GET", "/api/flows")

    assert prefect.asked[0].headers["authorization"] == "Basic YWRtaW46cHc="


async def test_settings_send_the_browser_to_the_gateway(desk: Desk, prefect: FakePrefect) -> None:
    settings = (await send(desk, "GET", "/ui-settings")).json()

    assert settings == {"api_url": "/prefect/api", "auth": None, "default_ui": "v2"}
    prefect.answers["/prefect/ui-settings"] = PlainTextResponse("away", 500)
    assert (await send(desk, "GET", "/ui-settings")).json() == {"api_url": "/prefect/api", "auth": None}


@pytest.mark.parametrize(
    ("path", "place"),
    [("/old", "/prefect/v2/"), ("/api/flows/", "/prefect/api/flows?limit=1"), ("/api/flows/elsewhere", None)],
)
async def test_redirects_stay_on_the_gateway(desk: Desk, path: str, place: str | None) -> None:
    answer = await send(desk, "GET", path)

    assert (answer.status_code, answer.headers.get("location")) == (307, place)


async def test_start_leads_to_the_ui(desk: Desk) -> None:
    answer = await send(desk, "GET", "")

    assert (answer.status_code, answer.headers["location"]) == (307, "/prefect/")


async def test_bodies_pass_in_both_directions(desk: Desk, prefect: FakePrefect) -> None:
    body = json.dumps({"flows": {"name": {"any_": ["ä" * 300_000]}}}).encode()

    async def chunks() -> AsyncGenerator[bytes]:
        yield body[:5]
        yield body[5:]

    whole = await send(desk, "POST", "/api/flows/filter", content=body)
    parts = await send(desk, "POST", "/api/flows/filter", content=chunks())

    assert (whole.status_code, parts.status_code) == (200, 200)
    assert [one.body for one in prefect.asked] == [body, body]


async def test_too_large_a_body_is_refused(desk: Desk, prefect: FakePrefect) -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 1024 * 1024

    answer = await send(desk, "POST", "/api/flows/filter", content=endless())
    resumed = await send(desk, "POST", f"/api/flow_runs/{RUN}/resume", content=endless())

    assert (answer.status_code, resumed.status_code) == (422, 422)
    assert answer.json()["detail"] == f"the request is larger than {8 * 1024 * 1024} bytes"
    assert sent <= 9 + 2
    assert prefect.asked == []


async def test_answer_comes_while_it_is_made(desk: Desk, prefect: FakePrefect) -> None:
    port, token = free_port(), await desk.session()
    cookies = {"penstock_session": token}
    async with (
        listening(desk.app, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", cookies=cookies, timeout=30) as client,
        client.stream("GET", "/prefect/api/logs/slow") as answer,
    ):
        chunks = answer.aiter_raw()
        first = await anext(chunks)
        prefect.more.set()
        rest = b"".join([chunk async for chunk in chunks])

    assert (first, rest) == (b"first half, ", b"second half")


class _Endless(httpx.AsyncByteStream):
    """An answer that never ends, and knows whether it was let go of."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"more "

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("sent", [0, 1, 5])
async def test_upstream_is_let_go_when_the_browser_leaves(desk: Desk, sent: int) -> None:
    endless, messages = _Endless(), list[Any]()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=endless))
    desk.app.state.prefect = Upstream(httpx.AsyncClient(transport=transport, base_url="http://prefect"))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send_some(message: Any) -> None:
        if len(messages) == sent:
            raise OSError("the browser is gone")
        messages.append(message)

    headers = {"host": "127.0.0.1:8080", "cookie": f"penstock_session={await desk.session()}"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "scheme": "http",
        "path": "/prefect/api/logs/all",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    with pytest.raises(ClientDisconnect):
        await desk.app(scope, receive, send_some)

    assert endless.closed
    assert len(messages) == sent


async def test_connections_are_closed_with_the_gateway() -> None:
    app = FastAPI()
    app.include_router(router)

    async with app.router.lifespan_context(app):
        upstream = app.state.prefect = open_upstream(Settings())
        assert not upstream.client.is_closed

    assert upstream.client.is_closed


async def test_prefect_that_is_away(database: Database, tmp_path: Path) -> None:
    desk = await open_desk(database, tmp_path, prefect={"port": free_port()})

    answer = await send(desk, "GET", "/api/health")
    await desk.app.state.prefect.client.aclose()

    assert (answer.status_code, answer.json()["type"]) == (502, "urn:penstock:unreachable")


async def test_external_prefect_is_not_served(database: Database, tmp_path: Path) -> None:
    desk = await open_desk(database, tmp_path, prefect={"api_url": "http://prefect.example:4200/api"})

    for path in ("/", "/ui-settings", "/api/health", "/v2/runs"):
        answer = await send(desk, "GET", path)
        assert answer.status_code == 404
        assert "PENSTOCK_PREFECT__API_URL" in answer.json()["detail"]
        assert "http://prefect.example:4200" in answer.json()["detail"]


async def test_web_socket_is_told_quickly(desk: Desk, prefect: FakePrefect) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}

    answer = await send(desk, "GET", "/api/events/out", headers=headers)

    assert (answer.status_code, prefect.asked) == (404, [])


@pytest.mark.parametrize(
    "path", ["/api/a%2F..%2Fb", "/api/flow_runs//x/resume", "/api/a%5Cb", "/api/%2e%2e/prefect/", "//api/x"]
)
async def test_crooked_path_goes_nowhere(desk: Desk, prefect: FakePrefect, path: str) -> None:
    port, token = free_port(), await desk.session()
    async with listening(desk.app, port):
        answer = await _raw(port, f"POST /prefect{path}", token)

    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))
    assert prefect.asked == []


async def _raw(port: int, start: str, token: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{start} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: penstock_session={token}\r\n"
    writer.write(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("person", ["ada", "vera"])
async def test_everybody_reads_and_only_those_who_may_act_change(
    desk: Desk, prefect: FakePrefect, person: str
) -> None:
    read = [("GET", "/api/flows"), ("POST", "/api/flow_runs/filter"), ("GET", "/")]
    change = [
        ("POST", f"/api/flow_runs/{RUN}/set_state"),
        ("POST", "/api/flow_runs/bulk_set_state"),
        ("DELETE", f"/api/flow_runs/{RUN}"),
        ("PUT", "/api/saved_searches/"),
        ("PATCH", f"/api/deployments/{RUN}"),
        ("POST", f"/api/flow_runs/{RUN}/resume"),
    ]

    seen = [(await send(desk, *one, person=person, json={})).status_code for one in read]
    changed = [await send(desk, *one, person=person, json={}) for one in change]

    assert seen == [200, 200, 200]
    if person == "ada":
        assert {answer.status_code for answer in changed} == {200}
        assert prefect.paths[3:] == [f"{method} {path}" for method, path in change]
    else:
        assert {answer.status_code for answer in changed} == {403}
        assert all("may look at Prefect" in answer.json()["detail"] for answer in changed)
        assert len(prefect.asked) == 3


async def test_other_sites_change_nothing(desk: Desk, prefect: FakePrefect) -> None:
    answers = [
        await send(desk, "POST", f"/api/flow_runs/{RUN}/{what}", headers=EVIL)
        for what in ("resume", "set_state")
    ]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert prefect.asked == []


async def test_what_people_put_into_forms_is_shown_to_nobody(desk: Desk, prefect: FakePrefect) -> None:
    prefect.has_form(RUN, 3)
    place = f"/api/flow_runs/{RUN}/input"

    answers = [
        await send(desk, "GET", f"{place}/round-3-response"),
        await send(desk, "POST", f"{place}/filter", json={"prefix": "round"}),
        await send(desk, "POST", place, json={"key": "round-3-response", "value": "{}"}),
        await send(desk, "DELETE", f"{place}/round-3-schema"),
    ]

    assert {answer.status_code for answer in answers} == {403}
    assert prefect.asked == []


async def test_form_asks_for_no_code(desk: Desk, prefect: FakePrefect) -> None:
    prefect.has_form(RUN, 3)
    prefect.answers[f"/api/flow_runs/{RUN}/input/mine-schema"] = prefect.answers[
        f"/api/flow_runs/{RUN}/input/round-3-description"
    ]

    schema = (await send(desk, "GET", f"/api/flow_runs/{RUN}/input/round-3-schema")).json()
    cards = (await send(desk, "GET", f"/api/flow_runs/{RUN}/input/round-3-description")).json()
    other = (await send(desk, "GET", f"/api/flow_runs/{RUN}/input/mine-schema")).json()

    assert list(schema["properties"]) == ["decision_3", "comment"]
    assert schema["properties"]["decision_3"] == SCHEMA["properties"]["decision"]
    assert schema["required"] == ["decision_3"]
    assert schema["additionalProperties"] is False
    assert cards == other == "### Patch 2 files"


async def test_secrets_of_blocks_stay_hidden(desk: Desk, prefect: FakePrefect) -> None:
    await send(desk, "GET", f"/api/block_documents/{RUN}?include_secrets=true&x=1&include%5Fsecrets=1")
    await send(desk, "POST", "/api/block_documents/filter", json={"limit": 5, "include_secrets": True})
    await send(desk, "POST", "/api/block_documents/filter", content=b"[" * 100_000)

    assert prefect.asked[0].query == "x=1"
    assert [json.loads(one.body) for one in prefect.asked[1:]] == [
        {"limit": 5, "include_secrets": False},
        {"include_secrets": False},
    ]


async def test_run_that_asks_for_nothing_is_resumed_by_prefect(desk: Desk, prefect: FakePrefect) -> None:
    body = {"run_input": {"name": "of another form"}}

    answer = await send(desk, "POST", f"/api/flow_runs/{RUN}/resume", json=body)

    assert answer.json() == {"asked": f"/api/flow_runs/{RUN}/resume"}
    assert json.loads(prefect.asked[0].body) == body


def test_links_lead_through_the_gateway() -> None:
    own = Settings.model_validate({"gateway": {"url": "https://penstock.example.com"}})
    other = Settings.model_validate({"prefect": {"api_url": "http://prefect.example:4200/api"}})

    assert Links(own).run(RUN) == f"https://penstock.example.com/prefect/runs/flow-run/{RUN}"
    assert Links(other).run(RUN) == f"http://prefect.example:4200/runs/flow-run/{RUN}"
    assert Links(own).deployment(RUN).endswith(f"/prefect/deployments/deployment/{RUN}")
    assert (ui_url(own), ui_url(other)) == ("http://127.0.0.1:4200/prefect", "http://prefect.example:4200")
