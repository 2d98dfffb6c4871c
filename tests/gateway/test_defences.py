"""What a login refuses: other sites, other places to go on, unencrypted ways; and headers of answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.conftest import PASSWORD, Gate
from gateway.entering import by_link, by_password, me

EVIL = {"Origin": "https://evil.example"}


# Where a login leads to


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        " //evil.example",
        "javascript:alert(1)",
        "evil.example",
        "@evil.example",
        "/x\r\nSet-Cookie: a=b",
        "/é",
        "/" + "x" * 3000,
        "",
    ],
)
async def test_login_leads_nowhere_else(gate: Gate, wanted: str) -> None:
    token = await gate.link()
    async with gate.client() as client:
        shown = await client.get("/login", params={"next": wanted})
        password = await by_password(client, next=wanted)
        link = await by_link(client, token, next=wanted)

    assert 'name="next" value="/"' in shown.text
    assert (password.headers["location"], link.headers["location"]) == ("/", "/")


async def test_what_a_link_says_is_text(gate: Gate) -> None:
    async with gate.client() as client:
        shown = await client.get("/login", params={"next": "/<script>alert(1)</script>"})
        failed = await by_password(client, '"><script>alert(1)</script>', "x")

    assert "<script" not in shown.text + failed.text


# Other sites


@pytest.mark.parametrize(
    "headers",
    [EVIL, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://127.0.0.1:4200"}],
)
async def test_pages_of_other_sites_sign_nobody_in_or_out(gate: Gate, headers: dict[str, str]) -> None:
    link = await gate.link()
    async with gate.client() as client:
        refused = [
            await client.post("/login", data={"name": "alice", "password": PASSWORD}, headers=headers),
            await client.post("/login/link", data={"token": link}, headers=headers),
        ]
        await by_password(client)
        refused.append(await client.post("/logout", headers=headers))
        assert await me(client) == "alice"

    assert {answer.status_code for answer in refused} == {403}


# Headers, and a proxy that ends TLS


async def test_headers_of_every_answer(gate: Gate) -> None:
    gate.app.add_api_route("/api/broken", _break)
    async with gate.client(token=await gate.session()) as client:
        paths = ("/login", "/healthz", "/api/me", "/api/nothing", "/api/broken", "/static/base.css")
        answers = [await client.get(path) for path in paths]
        answers.append(await client.get("/healthz", headers={"Host": "evil.example"}))
        answers.append(await client.post("/login", headers=EVIL))

    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 500, 200, 400, 403]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        for part in ("default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'"):
            assert part in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        kept = answer.request.url.path.startswith("/static/")
        assert answer.headers["cache-control"] == ("no-cache" if kept else "no-store")
    assert answers[4].json()["type"] == "urn:penstock:unexpected"


async def _break() -> None:
    raise ZeroDivisionError("a secret")


PUBLIC = "https://penstock.example"


async def test_public_address_may_have_a_port_or_be_a_number(gate_of: Callable[..., Gate]) -> None:
    for url in ("https://Penstock.example:8443", "http://[2001:db8::7]:8080"):
        async with gate_of(gateway={"url": url}).client(
            base_url=url, headers={"Origin": url.lower()}
        ) as client:
            assert (await by_password(client)).status_code == 303


@pytest.mark.parametrize("host", ["penstock.example", "127.0.0.1:8080"])
async def test_behind_a_proxy_that_ends_tls(gate_of: Callable[..., Gate], host: str) -> None:
    gate = gate_of(gateway={"url": PUBLIC}, base=f"http://{host}")
    own, http = {"Origin": PUBLIC}, {"Origin": "http://penstock.example"}
    async with gate.client() as client:
        data = {"name": "alice", "password": PASSWORD}
        entered = await client.post("/login", data=data, headers=own)
        cookie = entered.headers["set-cookie"]
        unencrypted = await client.post("/login", data=data, headers=http)
        elsewhere = await client.post("/login", data=data, headers=EVIL)
        strange = await client.get("/healthz", headers={"Host": "evil.example"})

    assert entered.status_code == 303
    assert cookie.startswith("__Host-penstock_session=")
    for part in ("Secure", "HttpOnly", "Path=/", "SameSite=lax"):
        assert part in cookie
    assert "domain" not in cookie.lower()
    assert (unencrypted.status_code, elsewhere.status_code, strange.status_code) == (403, 403, 400)


async def test_encrypted_site_takes_no_cookie_that_others_could_have_set(
    gate_of: Callable[..., Gate],
) -> None:
    gate = gate_of(gateway={"url": PUBLIC}, base=PUBLIC)
    token = await gate.session()
    async with gate.client(cookies={"penstock_session": token}) as client:
        planted = await me(client)
    async with gate.client(cookies={"__Host-penstock_session": token}) as client:
        own = await me(client)

    assert (planted, own) == (None, "alice")
