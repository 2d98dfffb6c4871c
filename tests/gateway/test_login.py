"""Signing in and out: by link and by password, and what does not get in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import text

from gateway.conftest import OWN, PASSWORD, Gate
from gateway.entering import by_link, by_password, me
from penstock.gateway.guard import OPEN
from penstock.store.database import Database
from penstock.store.sessions import find_session
from penstock.store.tokens import token_hash


async def audited(database: Database) -> list[tuple[str, str | None]]:
    rows = await database.fetch(text("SELECT kind, person FROM penstock.audit_entry ORDER BY seq"))
    return [(row["kind"], row["person"]) for row in rows]


# Who is asked to sign in


def closed_routes(gate: Gate) -> Sequence[APIRoute]:
    """List the routes of the application and of the routers that it includes."""
    inner = (getattr(route, "original_router", None) for route in gate.app.routes)
    routes = [*gate.app.routes, *(one for router in inner if router for one in router.routes)]
    closed = [route for route in routes if isinstance(route, APIRoute) and route.path not in OPEN]
    documented = {path for path in gate.app.openapi()["paths"] if path not in OPEN}
    assert documented <= {route.path for route in closed}
    assert {"/approvals", "/api/runs", "/api/me"} <= {route.path for route in closed}
    return closed


async def test_every_route_but_the_login_and_the_health_checks_needs_a_session(gate: Gate) -> None:
    async with gate.client() as client:
        for route in closed_routes(gate):
            path = re.sub(r"\{.*?\}", "x", route.path)
            for method in route.methods or ():
                answer = await client.request(method, path, content=b"{not json")
                if path.startswith(("/api/", "/prefect/api/")):
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.headers["www-authenticate"] == "Bearer"
                else:
                    assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login"), path


@pytest.mark.parametrize(
    "path",
    ["/openapi.json", "/api/nothing", "/api", "/nothing", "/docs", "/login/../api/me", "/login/", "/static"],
)
async def test_paths_without_a_route_are_closed_as_well(gate: Gate, path: str) -> None:
    async with gate.client() as client:
        answer = await client.get(httpx.URL(OWN, raw_path=path.encode()))

    assert answer.status_code in {303, 401}


async def test_page_leads_to_the_login_and_back(gate: Gate) -> None:
    async with gate.client() as client:
        sent = await client.get("/approvals", params={"view": "decided"})
        shown = await client.get(sent.headers["location"])
        script = await client.get("/approvals", headers={"Sec-Fetch-Mode": "cors"})

    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Fapprovals%3Fview%3Ddecided")
    assert 'name="next" value="/approvals?view=decided"' in shown.text
    assert script.status_code == 401


async def test_health_and_style_are_open(gate: Gate) -> None:
    async with gate.client() as client:
        health, style = await client.get("/healthz"), await client.get("/static/base.css")
        outside = await client.get(httpx.URL(OWN, raw_path=b"/static/..%2fapp.py"))

    assert (health.status_code, style.status_code, outside.status_code) == (200, 200, 404)


# Sessions


async def test_session_tells_who_somebody_is(gate: Gate) -> None:
    async with gate.client(token=await gate.session("alice")) as client:
        found = (await client.get("/api/me")).json()

    assert found.pop("expires_at") > "2026"
    assert found == {
        "person": "alice",
        "full_name": "Alice Adams",
        "groups": ["sre"],
        "approver": True,
        "via": "link",
    }


async def test_claimed_groups_make_somebody_known_at_each_request(gate: Gate) -> None:
    carol = await gate.session("carol", groups=["okta-release", "x"], via="oidc")
    stranger = await gate.session("dave", groups=["x"], via="oidc")
    async with gate.client(token=carol) as client:
        found = (await client.get("/api/me")).json()
    async with gate.client(token=stranger) as client:
        nobody = await me(client)

    assert (found["groups"], found["approver"]) == (["release"], True)
    assert nobody is None


async def test_person_who_is_removed_is_out_at_once(gate: Gate) -> None:
    async with gate.client(token=await gate.session("bob")) as client:
        before = await me(client)
        assert gate.people
        gate.people.write_text(gate.people.read_text().replace("  bob: {role: viewer}\n", ""))
        answer = await client.get("/api/me")

    assert before == "bob"
    assert answer.status_code == 401
    assert "bob is not among the people" in answer.json()["detail"]


async def test_session_ends(gate: Gate) -> None:
    async with gate.client(token=await gate.session(lifetime_s=0.3)) as client:
        before = await me(client)
        await asyncio.sleep(0.5)

        assert (before, await me(client)) == ("alice", None)


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "bearer \xff", "Basic eDp5", "x"])
async def test_wrong_tokens_sign_nobody_in(gate: Gate, header: str) -> None:
    async with gate.client() as client:
        answer = await client.get("/api/me", headers=[(b"authorization", header.encode("latin-1"))])

    assert answer.status_code == 401


async def test_hash_from_the_database_is_no_token(gate: Gate) -> None:
    stolen = token_hash(await gate.session())
    async with gate.client(token=stolen) as client:
        assert await me(client) is None


async def test_wrong_token_is_not_made_up_for_by_a_cookie(gate: Gate) -> None:
    async with gate.client() as client:
        await by_password(client)
        assert await me(client) == "alice"
        answer = await client.get("/api/me", headers={"Authorization": "Bearer wrong"})

    assert answer.status_code == 401


async def test_signing_out_without_a_session_does_no_harm(gate: Gate) -> None:
    async with gate.client() as client:
        assert (await client.post("/logout")).headers["location"] == "/login"


async def test_program_may_sign_out(gate: Gate) -> None:
    async with gate.client(token=await gate.session()) as client:
        await client.post("/logout")
        assert await me(client) is None


async def test_people_read_pages_where_programs_read_problems(gate: Gate) -> None:
    page = {"Accept": "text/html,*/*"}
    async with gate.client(token=await gate.session()) as client:
        missing = await client.get("/nothing", headers=page)
        unfit = await client.get("/approvals?view=x", headers=page)
        script = await client.get("/nothing", headers={**page, "Sec-Fetch-Mode": "cors"})
        program = await client.get("/api/nothing", headers=page)

    assert [answer.status_code for answer in (missing, unfit, script, program)] == [404, 422, 404, 404]
    for answer, words in ((missing, "Not Found"), (unfit, "does not fit")):
        assert answer.headers["content-type"].startswith("text/html")
        assert words in answer.text
        assert "Sign out" in answer.text
    for answer in (script, program):
        assert answer.headers["content-type"] == "application/problem+json"


# Passwords


async def test_password_signs_in_and_signing_out_ends_it_for_thieves_too(gate: Gate) -> None:
    async with gate.client() as client:
        answer = await by_password(client, next="/approvals")
        cookie = answer.headers["set-cookie"]
        stolen = client.cookies["penstock_session"]
        before = await me(client)
        out = await client.post("/logout")
        after = await me(client)
    async with gate.client(cookies={"penstock_session": stolen}) as thief:
        assert await me(thief) is None
    async with gate.client(token=stolen) as thief:
        assert await me(thief) is None

    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals")
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=43200"):
        assert part in cookie
    assert "Secure" not in cookie
    assert (before, after) == ("alice", None)
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert await audited(gate.database) == [("session.opened", "alice")]


@pytest.mark.parametrize(
    ("name", "password", "recorded"),
    [
        ("alice", "wrong", "alice"),
        ("alice", "", "alice"),
        ("bob", PASSWORD, "bob"),
        ("bob", "", "bob"),
        ("nobody", PASSWORD, None),
        (PASSWORD, "alice", None),
        ("", "", None),
    ],
)
async def test_wrong_passwords_do_not(gate: Gate, name: str, password: str, recorded: str | None) -> None:
    async with gate.client() as client:
        answer = await by_password(client, name, password)

        assert answer.status_code == 401
        assert "do not go together" in answer.text
        assert "set-cookie" not in answer.headers
        assert await me(client) is None
    assert await audited(gate.database) == [("session.refused", recorded)]


async def test_ten_tries_a_person_and_no_more(gate: Gate) -> None:
    async with gate.client() as client:
        tries = await asyncio.gather(*(by_password(client, "bob", f"guess {n}") for n in range(12)))
        right = await by_password(client, "bob", PASSWORD)
        other = await by_password(client, "alice")

    assert sorted(answer.status_code for answer in tries) == [401] * 10 + [429] * 2
    assert right.status_code == 429
    assert 0 < int(right.headers["retry-after"]) <= 900
    assert other.status_code == 303
    assert len(await audited(gate.database)) == 11  # what is refused unseen fills no table


async def test_thirty_tries_from_one_place(gate: Gate) -> None:
    async with gate.client(address="2001:db8::1") as client, gate.client(address="2001:db8::2") as beside:
        for number in range(15):
            await by_link(client, f"guess {number}")
            await by_link(beside, f"guess {number}")
        refused = await by_password(client)
    async with gate.client(address="2001:db8:0:1::1") as elsewhere:
        let_in = await by_password(elsewhere)

    assert (refused.status_code, let_in.status_code) == (429, 303)


async def test_right_passwords_use_up_no_tries(gate: Gate) -> None:
    async with gate.client() as client:
        for _ in range(3):
            for _ in range(8):
                await by_password(client, "alice", "wrong")
            assert (await by_password(client)).status_code == 303


async def test_without_a_people_file_nobody_has_a_password(gate_of: Callable[..., Gate]) -> None:
    async with gate_of(closed=False).client() as client:
        shown = await client.get("/login")
        answer = await by_password(client, "root", "")

    assert 'type="password"' not in shown.text
    assert "penstock login" in shown.text
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"name=alice&password=x&pad=" + b"x" * 17_000, "application/x-www-form-urlencoded"),
        (b'{"name": "alice"}', "application/json"),
        (b"a=b&" * 30, "application/x-www-form-urlencoded"),
        (b"name=\xff", "application/x-www-form-urlencoded"),
    ],
)
async def test_odd_forms_are_refused(gate: Gate, body: bytes, kind: str) -> None:
    async with gate.client() as client:
        answer = await client.post("/login", content=body, headers={"Content-Type": kind})

    assert answer.status_code == 422


async def test_hash_of_no_use_lets_nobody_in(gate: Gate, hashed: str) -> None:
    assert gate.people
    costly = hashed.replace("scrypt$32768$8$3", "scrypt$16777216$64$3")
    gate.people.write_text(gate.people.read_text().replace(hashed, costly))
    async with gate.client() as client:
        assert (await by_password(client)).status_code == 401


# Links


async def test_link_is_used_up_by_its_button_only(gate: Gate) -> None:
    token = await gate.link()
    async with gate.client() as client:
        address = {"token": token, "next": "/approvals/7"}
        looked = [await client.get("/login/link", params=address) for _ in range(3)]  # as scanners of mail do
        assert await me(client) is None
        entered = await by_link(client, token, next="/approvals/7")
        assert await me(client) == "alice"
    async with gate.client() as second:
        looked_again = await second.get("/login/link", params={"token": token})
        again = await by_link(second, token)
        assert await me(second) is None

    assert "sign in as <strong>alice</strong>" in looked[2].text
    assert (entered.status_code, entered.headers["location"]) == (303, "/approvals/7")
    assert (looked_again.status_code, again.status_code) == (401, 401)
    assert "was used or has expired" in again.text
    assert await audited(gate.database) == [("session.opened", "alice"), ("session.refused", None)]


async def test_link_lets_one_of_many_in(gate: Gate) -> None:
    token = await gate.link()
    async with gate.client() as client:
        answers = await asyncio.gather(*(by_link(client, token) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [303] + [401] * 7


async def test_link_expires(gate: Gate) -> None:
    token = await gate.link(lifetime_s=-1)
    async with gate.client() as client:
        assert (await client.get("/login/link", params={"token": token})).status_code == 401
        assert (await by_link(client, token)).status_code == 401


async def test_link_of_somebody_who_is_not_known_any_more_does_not_help(gate: Gate) -> None:
    token = await gate.link("mallory")
    async with gate.client() as client:
        answer = await by_link(client, token)

    assert answer.status_code == 401
    assert "mallory is not among the people" in answer.text
    assert await audited(gate.database) == [("session.refused", "mallory")]


async def test_links_and_sessions_do_not_stand_for_each_other(gate: Gate) -> None:
    link, session = await gate.link(), await gate.session()
    async with gate.client(token=link) as client:
        assert await me(client) is None
    async with gate.client() as client:
        assert (await by_link(client, session)).status_code == 401


async def test_secrets_are_kept_as_hashes(gate: Gate) -> None:
    link, session = await gate.link(), await gate.session()
    rows: list[Any] = []
    for table in ("web_session", "login_link", "audit_entry"):
        rows += await gate.database.fetch(text(f"SELECT * FROM penstock.{table}"))  # noqa: S608  our tables

    assert len(rows) == 3
    assert not any(secret in str(rows) for secret in (link, session))
    assert await find_session(gate.database, token_hash(session)) is not None
