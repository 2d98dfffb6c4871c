"""Signing in by an identity provider, and providers, browsers and tokens that lie."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from sqlalchemy import text

from gateway.conftest import Gate
from penstock.errors import SettingsError
from penstock.gateway.app import create_app
from penstock.settings import Settings
from support.identity_provider import CLIENT, SECRET, IdentityProvider, Key, identity_provider, new_key

FLOW = "penstock_login"


@pytest.fixture(scope="module")
def running() -> Generator[IdentityProvider]:
    with identity_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def second_key() -> Key:
    return new_key("k2")


@pytest.fixture(scope="module")
def first_key(running: IdentityProvider) -> Key:
    return running.keys[0]


@pytest.fixture
def provider(running: IdentityProvider, first_key: Key) -> IdentityProvider:
    """Give the provider as it was at first."""
    fresh = IdentityProvider(running.issuer, [first_key])
    running.__dict__.update(fresh.__dict__)
    return running


@pytest.fixture
def oidc(provider: IdentityProvider) -> dict[str, Any]:
    return {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SecretStr(SECRET)}


@pytest.fixture
def gate(gate_of: Callable[..., Gate], oidc: dict[str, Any]) -> Gate:
    return gate_of(oidc=oidc)


async def at_provider(client: httpx.AsyncClient, wanted: str = "/approvals") -> str:
    """Go to the provider and sign in there; give the address that it sends the browser back to."""
    sent = await client.get("/login/oidc", params={"next": wanted})
    assert sent.status_code == 303, sent.text
    async with httpx.AsyncClient() as browser:
        back = await browser.get(sent.headers["location"])
    assert back.status_code == 302, back.text
    return back.headers["location"]


async def signed_in(gate: Gate, wanted: str = "/approvals") -> tuple[httpx.Response, dict[str, Any]]:
    """Sign in; give the answer and what `/api/me` says then."""
    async with gate.client() as client:
        answer = await client.get(await at_provider(client, wanted))
        return answer, (await client.get("/api/me")).json()


async def assert_refused(gate: Gate, words: str, status: int = 401) -> None:
    answer, me = await signed_in(gate)
    assert answer.status_code == status, answer.headers
    assert words in answer.text.replace("&#39;", "'")
    assert "penstock_session" not in answer.headers["set-cookie"]
    assert me["status"] == 401
    (row,) = await gate.database.fetch(text("SELECT kind, person FROM penstock.audit_entry"))
    assert (row["kind"], row["person"]) == ("session.refused", None)


async def test_person_whom_the_provider_knows_comes_in(gate: Gate) -> None:
    async with gate.client() as client:
        shown = await client.get("/login")
        began = await client.get("/login/oidc")
        answer = await client.get(await at_provider(client, "/approvals?view=decided"))
        me = (await client.get("/api/me")).json()
        left = dict(client.cookies)

    assert 'href="/login/oidc?next=%2F"' in shown.text
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=600"):
        assert part in began.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals?view=decided")
    assert (me["person"], me["groups"], me["via"], me["approver"]) == ("carol", ["release"], "oidc", True)
    assert left.keys() == {"penstock_session"}
    (row,) = await gate.database.fetch(text("SELECT kind, person FROM penstock.audit_entry"))
    assert (row["kind"], row["person"]) == ("session.opened", "carol")


async def test_person_of_the_file_keeps_groups_and_role(gate: Gate, provider: IdentityProvider) -> None:
    provider.claims = {"preferred_username": "alice", "groups": "okta-release"}

    _, me = await signed_in(gate)

    assert (me["person"], me["groups"]) == ("alice", ["release", "sre"])


async def test_claims_have_the_names_that_settings_give(
    gate_of: Callable[..., Gate], provider: IdentityProvider, oidc: dict[str, Any]
) -> None:
    provider.claims = {
        "email": "alice@penstock.example",
        "email_verified": True,
        "roles": ["okta-release", 7],
    }
    gate = gate_of(oidc={**oidc, "name_claim": "email", "groups_claim": "roles"})

    _, me = await signed_in(gate)

    assert (me["person"], me["groups"]) == ("alice@penstock.example", ["release"])


@pytest.mark.parametrize("algorithm", ["PS256", "RS512", "ES256"])
async def test_other_asymmetric_keys_do(gate: Gate, provider: IdentityProvider, algorithm: str) -> None:
    provider.keys = [*provider.keys, new_key("new", algorithm)]

    answer, _ = await signed_in(gate)

    assert answer.status_code == 303


async def test_one_key_needs_no_name(gate: Gate, provider: IdentityProvider) -> None:
    provider.sign = lambda claims: jwt.encode(claims, provider.keys[0].private, "RS256")

    answer, _ = await signed_in(gate)

    assert answer.status_code == 303


async def test_secret_goes_into_the_form_where_the_provider_wants_it(
    gate: Gate, provider: IdentityProvider
) -> None:
    provider.described = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}

    answer, _ = await signed_in(gate)

    assert answer.status_code == 303


async def test_program_without_a_secret_is_known_by_its_name(
    gate_of: Callable[..., Gate], provider: IdentityProvider
) -> None:
    provider.secret = None

    answer, _ = await signed_in(gate_of(oidc={"issuer": provider.issuer}))

    assert answer.status_code == 303


async def test_description_may_end_in_a_slash_and_have_a_query(
    gate: Gate, provider: IdentityProvider
) -> None:
    provider.described = {
        "issuer": f"{provider.issuer}/",
        "authorization_endpoint": f"{provider.issuer}/authorize?tenant=7",
    }
    provider.claims["iss"] = f"{provider.issuer}/"

    answer, _ = await signed_in(gate)

    assert answer.status_code == 303


# Tokens


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"nonce": "another"}, "for another login"),
        ({"nonce": None}, "for another login"),
        ({"aud": "another"}, "Audience"),
        ({"aud": None}, '"aud"'),
        ({"aud": [CLIENT, "another"]}, "another program"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, "another program"),
        ({"azp": "another"}, "another program"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, '"iss"'),
        ({"exp": 1}, "expired"),
        ({"exp": None}, '"exp"'),
        ({"iat": 4_000_000_000}, "not yet valid"),
        ({"iat": None}, '"iat"'),
        ({"sub": None}, '"sub"'),
        ({"preferred_username": None}, "no usable name"),
        ({"preferred_username": ["alice"]}, "no usable name"),
        ({"preferred_username": ""}, "no usable name"),
        ({"preferred_username": "alice\x00"}, "no usable name"),
        ({"preferred_username": "al ice"}, "no usable name"),
        ({"preferred_username": "x" * 101}, "no usable name"),
        ({"preferred_username": "dave", "groups": None}, "dave is not among the people"),
        ({"preferred_username": "dave", "groups": {"okta-release": 1}}, "dave is not among the people"),
    ],
)
async def test_token_that_says_something_wrong(
    gate: Gate, provider: IdentityProvider, claims: dict[str, Any], words: str
) -> None:
    provider.claims = {"preferred_username": "alice", **claims}

    await assert_refused(gate, words.replace('"', "&#34;"))


async def test_unverified_address_is_nobodys(
    gate_of: Callable[..., Gate], provider: IdentityProvider, oidc: dict[str, Any]
) -> None:
    provider.claims = {"email": "alice", "email_verified": False}

    await assert_refused(gate_of(oidc={**oidc, "name_claim": "email"}), "has not verified")


async def test_token_without_signature(gate: Gate, provider: IdentityProvider) -> None:
    provider.sign = lambda claims: jwt.encode(claims, "", "none", headers={"kid": "k1"})

    await assert_refused(gate, "signed with 'none'")


async def test_token_signed_with_the_public_key_as_a_secret(gate: Gate, provider: IdentityProvider) -> None:
    public = provider.keys[0].private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def forge(claims: dict[str, Any]) -> str:
        # The library does not make such a token; an attacker's does.
        head, body, _ = jwt.encode(claims, "x" * 32, "HS256", headers={"kid": "k1"}).split(".")
        signature = hmac.digest(pem, f"{head}.{body}".encode(), "sha256")
        return f"{head}.{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"

    provider.sign = forge

    await assert_refused(gate, "signed with 'HS256'")


async def test_token_signed_with_the_clients_secret(gate: Gate, provider: IdentityProvider) -> None:
    provider.sign = lambda claims: jwt.encode(claims, SECRET.ljust(32), "HS256", headers={"kid": "k1"})

    await assert_refused(gate, "signed with 'HS256'")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"kid": "k1"}, "Signature verification failed"),
        ({"kid": "k2"}, "does not name"),
        ({"kid": "k1", "jku": "https://evil.example/keys"}, "Signature verification failed"),
    ],
)
async def test_token_signed_with_a_strange_key(
    gate: Gate, provider: IdentityProvider, second_key: Key, header: dict[str, Any], words: str
) -> None:
    header = {**header, "jwk": dict(second_key.public)}
    provider.sign = lambda claims: jwt.encode(claims, second_key.private, "RS256", headers=header)

    await assert_refused(gate, words)


async def test_key_for_something_else(gate: Gate, provider: IdentityProvider) -> None:
    key = provider.keys[0]
    provider.keys = [Key(key.kid, "RS256", key.private, {**key.public, "alg": "RS512"})]

    await assert_refused(gate, "does not name")


async def test_key_of_another_kind(gate: Gate, provider: IdentityProvider) -> None:
    provider.keys = [Key("k1", "RS256", provider.keys[0].private, new_key("k1", "ES256").public)]

    await assert_refused(gate, "does not hold")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é"])
async def test_token_that_is_none(gate: Gate, provider: IdentityProvider, token: str) -> None:
    provider.sign = lambda _: token

    await assert_refused(gate, "does not hold")


# Browsers


async def test_answer_to_the_login_of_another_browser(gate: Gate) -> None:
    async with gate.client() as mallory, gate.client() as alice:
        planted = await at_provider(mallory)
        without = await alice.get(planted)
        await at_provider(alice)
        mixed = await alice.get(planted)
        me = await alice.get("/api/me")

    assert (without.status_code, mixed.status_code, me.status_code) == (401, 401, 401)
    assert "No login was begun" in without.text
    assert "began last" in mixed.text


async def test_answer_is_good_once(gate: Gate) -> None:
    async with gate.client() as client:
        address = await at_provider(client)
        flow = client.cookies[FLOW]
        first = await client.get(address)
        second = await client.get(address)
    async with gate.client(cookies={FLOW: flow}) as thief:
        third = await thief.get(address)

    assert [answer.status_code for answer in (first, second, third)] == [303, 401, 401]
    assert "does not take this login" in third.text


@pytest.mark.parametrize("state", ["", "x", "é"])
async def test_wrong_state(gate: Gate, state: str) -> None:
    async with gate.client() as client:
        address = httpx.URL(await at_provider(client)).copy_set_param("state", state)
        answer = await client.get(address)

    assert answer.status_code == 401


async def test_cookie_that_is_too_old_or_forged(gate: Gate) -> None:
    provider = gate.app.state.entrance.provider
    flow = {"state": "s", "nonce": "n", "verifier": "v", "next": "/", "exp": int(time.time()) + 600}
    forged = [
        jwt.encode({**flow, "exp": 1}, provider._key, "HS256"),
        jwt.encode(flow, "x" * 32, "HS256"),
        jwt.encode(flow, "", "none"),
        jwt.encode({name: flow[name] for name in flow if name != "exp"}, provider._key, "HS256"),
        jwt.encode({"exp": flow["exp"]}, provider._key, "HS256"),
    ]
    for cookie in forged:
        async with gate.client(cookies={FLOW: cookie}) as client:
            answer = await client.get("/login/oidc/callback", params={"state": "s", "code": "c"})
        assert "too long ago" in answer.text


async def test_code_that_is_missing_or_made_up(gate: Gate) -> None:
    async with gate.client() as client:
        address = httpx.URL(await at_provider(client))
        flow = client.cookies[FLOW]
        made_up = await client.get(address.copy_set_param("code", "guess"))
        client.cookies.set(FLOW, flow)
        missing = await client.get(address.copy_remove_param("code"))

    assert (made_up.status_code, missing.status_code) == (401, 401)


@pytest.mark.parametrize(("error", "words"), [("access_denied", "says access_denied"), ("<b>", "says no")])
async def test_person_who_says_no(gate: Gate, provider: IdentityProvider, error: str, words: str) -> None:
    provider.extra = {"error": error}

    await assert_refused(gate, words)


async def test_answer_of_another_provider(gate: Gate, provider: IdentityProvider) -> None:
    provider.extra = {"iss": "https://evil.example"}

    await assert_refused(gate, "another identity provider")


@pytest.mark.parametrize("wanted", ["https://evil.example", "//evil.example", "/\\evil.example"])
async def test_login_leads_nowhere_else(gate: Gate, wanted: str) -> None:
    answer, _ = await signed_in(gate, wanted)

    assert answer.headers["location"] == "/"


async def test_thirty_answers_that_are_wrong(gate: Gate) -> None:
    async with gate.client() as client:
        for _ in range(31):
            assert (await client.get("/login/oidc/callback")).status_code == 401
        assert await gate.database.fetch(text("SELECT seq FROM penstock.audit_entry")) == []
        answers: list[httpx.Response] = []
        for _ in range(31):
            client.cookies.set(FLOW, "made up")
            answers.append(await client.get("/login/oidc/callback"))

    assert [answer.status_code for answer in answers] == [401] * 30 + [429]
    assert len(await gate.database.fetch(text("SELECT seq FROM penstock.audit_entry"))) == 30


# Providers


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"issuer": "https://evil.example"}, "describes another identity provider"),
        ({"token_endpoint": "http://evil.example/token"}, "not encrypted"),
        ({"jwks_uri": "file:///etc/passwd"}, "not encrypted"),
        ({"authorization_endpoint": None}, "authorization_endpoint"),
    ],
)
async def test_provider_that_describes_itself_badly(
    gate: Gate, provider: IdentityProvider, described: dict[str, Any], words: str
) -> None:
    provider.described = described
    async with gate.client() as client:
        answer = await client.get("/login/oidc")

    assert answer.status_code == 502
    assert words in answer.text


@pytest.mark.parametrize(
    ("path", "words"),
    [("/nothing", "answers 404 at /nothing"), ("/.well-known/openid-configuration", "of no use: keys")],
)
async def test_provider_without_keys(gate: Gate, provider: IdentityProvider, path: str, words: str) -> None:
    provider.described = {"jwks_uri": f"{provider.issuer}{path}"}

    await assert_refused(gate, words, 502)


async def test_provider_that_does_not_answer(gate_of: Callable[..., Gate]) -> None:
    gate = gate_of(oidc={"issuer": "http://127.0.0.1:9"})
    async with gate.client() as client:
        answer = await client.get("/login/oidc", params={"next": "/approvals"})

    assert answer.status_code == 502
    assert "cannot be reached" in answer.text
    assert 'value="/approvals"' in answer.text  # there may be other ways to sign in


async def test_provider_that_does_not_know_us(gate_of: Callable[..., Gate], oidc: dict[str, Any]) -> None:
    gate = gate_of(oidc={**oidc, "client_secret": SecretStr("wrong")})

    await assert_refused(gate, "PENSTOCK_OIDC__CLIENT_ID", 502)


async def test_without_a_provider_there_is_no_such_login(gate_of: Callable[..., Gate]) -> None:
    async with gate_of().client() as client:
        answers = [await client.get("/login/oidc"), await client.get("/login/oidc/callback")]

    assert {answer.status_code for answer in answers} == {404}


@pytest.mark.parametrize(
    "issuer", ["http://login.penstock.example", "ftp://127.0.0.1", "login.penstock.example", "https://", ""]
)
def test_issuer_is_encrypted_or_on_this_machine(issuer: str) -> None:
    with pytest.raises(SettingsError, match="https://"):
        create_app(Settings.model_validate({"oidc": {"issuer": issuer}}))


async def test_secret_is_in_no_answer(gate: Gate) -> None:
    async with gate.client() as client:
        began = await client.get("/login/oidc")
        address = await at_provider(client)
        answer = await client.get(address)

    for part in (began, answer):
        assert SECRET not in str(part.headers) + part.text
