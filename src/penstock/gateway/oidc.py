"""Login by an identity provider: OpenID Connect, authorization code flow with PKCE.

What belongs to one login lies in a cookie of the browser that began it, signed by this process.
The provider's own documents are read anew for each login: keys may change at any time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import httpx
import jwt
from pydantic import BaseModel, ValidationError

from penstock.errors import AuthFailed, NotSignedIn, SettingsError, Unreachable
from penstock.gateway.addresses import is_loopback
from penstock.settings import OidcSettings

__all__ = ["LOGIN_S", "Begun", "Claimed", "Provider"]

LOGIN_S = 600
"""Seconds that a login at the provider may take."""

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""How a token may be signed: never with a secret that we hold as well, and never not at all."""
_KINDS = frozenset({"RSA", "EC", "OKP"})
_CLOCK_S = 60
_TIMEOUT_S = 10.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_CODE = re.compile(r"[a-z_]{1,60}")

Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True)
class Begun:
    """A login that a browser begins."""

    address: str
    """Where the browser goes: to the provider."""
    cookie: str
    """What it brings back."""


@dataclass(frozen=True)
class Claimed:
    """Who somebody is, as the provider says."""

    name: str
    groups: tuple[str, ...]
    next: str
    """Path that the person wanted."""


class _Discovered(BaseModel):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: list[str] = ["client_secret_basic"]


class _Tokens(BaseModel):
    id_token: str


class _Keys(BaseModel):
    keys: list[dict[str, Any]]


class _Flow(BaseModel):
    state: str
    nonce: str
    verifier: str
    next: str
    exp: int


class Provider:
    """An identity provider.

    Args:
        callback: Address to which the provider sends browsers back.
    Raises:
        SettingsError: The issuer is no address that can be trusted.
    """

    def __init__(self, settings: OidcSettings, callback: str) -> None:
        self._settings = settings
        self._issuer = (settings.issuer or "").rstrip("/")
        self._callback = callback
        self._key = secrets.token_bytes(32)
        if not _is_safe(self._issuer, self._issuer):
            raise SettingsError("PENSTOCK_OIDC__ISSUER: give an address that begins with https://")

    @property
    def name(self) -> str:
        """Name for people: the provider's host."""
        return urlsplit(self._issuer).netloc

    async def begin(self, wanted: str) -> Begun:
        """Begin a login.

        Args:
            wanted: Path of this site that the person wants.
        Raises:
            Unreachable: The provider does not answer, or not as one.
        """
        async with _client() as client:
            provider = await self._discover(client)
        state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
        flow = _Flow(state=state, nonce=nonce, verifier=verifier, next=wanted, exp=int(time.time()) + LOGIN_S)
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._settings.client_id,
                "redirect_uri": self._callback,
                "scope": " ".join(self._settings.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": _digest(verifier),
                "code_challenge_method": "S256",
            }
        )
        joint = "&" if urlsplit(provider.authorization_endpoint).query else "?"
        return Begun(
            f"{provider.authorization_endpoint}{joint}{query}", jwt.encode(flow.model_dump(), self._key)
        )

    async def finish(self, cookie: str, query: Mapping[str, str]) -> Claimed:
        """Finish a login with what the provider sent the browser back with.

        Raises:
            NotSignedIn: It is not the answer to a login that this browser began, or the provider's
                token does not hold.
            Unreachable: The provider does not answer, or not as one.
            AuthFailed: The provider refuses our client id or secret.
        """
        flow = self._flow_of(cookie, query.get("state", ""))
        if "error" in query:
            error = query["error"]
            raise NotSignedIn(f"the identity provider says {error if _CODE.fullmatch(error) else 'no'}")
        async with _client() as client:
            provider = await self._discover(client)
            if query.get("iss", provider.issuer) != provider.issuer:
                raise NotSignedIn("the answer comes from another identity provider")
            token = await self._redeem(client, provider, query.get("code", ""), flow.verifier)
            keys = _read(_Keys, await _ask(client, "GET", provider.jwks_uri))
        claims = self._checked(token, provider, keys, flow.nonce)
        return Claimed(self._name_in(claims), self._groups_in(claims), flow.next)

    def _flow_of(self, cookie: str, state: str) -> _Flow:
        try:
            flow = _Flow.model_validate(jwt.decode(cookie, self._key, ["HS256"], {"require": ["exp"]}))
        except (jwt.PyJWTError, ValidationError):
            raise NotSignedIn("this login was begun in another browser, or too long ago") from None
        if not hmac.compare_digest(flow.state.encode(), state.encode()):
            raise NotSignedIn("this is not the answer to the login that this browser began last")
        return flow

    async def _discover(self, client: httpx.AsyncClient) -> _Discovered:
        address = f"{self._issuer}/.well-known/openid-configuration"
        found = _read(_Discovered, await _ask(client, "GET", address))
        if found.issuer.rstrip("/") != self._issuer:
            raise Unreachable(f"{self._issuer} describes another identity provider: {found.issuer}")
        for endpoint in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
            if not _is_safe(endpoint, self._issuer):
                raise Unreachable(f"{self._issuer} names an address that is not encrypted: {endpoint}")
        return found

    async def _redeem(
        self, client: httpx.AsyncClient, provider: _Discovered, code: str, verifier: str
    ) -> str:
        """Give the code for the ID token."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "client_id": self._settings.client_id,
            "code_verifier": verifier,
        }
        secret = self._settings.client_secret
        headers: dict[str, str] = {}
        if secret is not None and "client_secret_basic" in provider.token_endpoint_auth_methods_supported:
            headers["Authorization"] = _basic(self._settings.client_id, secret.get_secret_value())
        elif secret is not None:
            form["client_secret"] = secret.get_secret_value()
        answer = await _ask(client, "POST", provider.token_endpoint, data=form, headers=headers)
        return _read(_Tokens, answer).id_token

    def _checked(self, token: str, provider: _Discovered, keys: _Keys, nonce: str) -> dict[str, Any]:
        try:
            claims = jwt.decode(
                token,
                _key_for(jwt.get_unverified_header(token), keys),
                algorithms=_ALGORITHMS,
                audience=self._settings.client_id,
                issuer=provider.issuer,
                leeway=_CLOCK_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise NotSignedIn(f"the identity provider's token does not hold: {error}") from None
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise NotSignedIn("the identity provider's token is for another login")
        several = isinstance(claims["aud"], list) and len(cast("list[Any]", claims["aud"])) > 1
        if claims.get("azp", None if several else self._settings.client_id) != self._settings.client_id:
            raise NotSignedIn("the identity provider's token was made for another program")
        return claims

    def _name_in(self, claims: Mapping[str, Any]) -> str:
        wanted = self._settings.name_claim
        name = claims.get(wanted)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise NotSignedIn(f"the identity provider's token has no usable name as {wanted!r}")
        if wanted == "email" and claims.get("email_verified", True) is not True:
            raise NotSignedIn("the identity provider has not verified this e-mail address")
        return name

    def _groups_in(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        found = claims.get(self._settings.groups_claim, [])
        groups = cast("list[Any]", found) if isinstance(found, list) else [found]
        return tuple(group for group in groups if isinstance(group, str))


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False)


async def _ask(client: httpx.AsyncClient, method: str, address: str, **more: Any) -> httpx.Response:
    try:
        answer = await client.request(method, address, **more)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"the identity provider cannot be reached: {type(error).__name__}") from error
    if answer.status_code == 401:
        raise AuthFailed("the identity provider refuses PENSTOCK_OIDC__CLIENT_ID or its secret")
    if method == "POST" and answer.status_code == 400:
        raise NotSignedIn("the identity provider does not take this login; begin again")
    if answer.status_code != 200:
        raise Unreachable(f"the identity provider answers {answer.status_code} at {urlsplit(address).path}")
    return answer


def _read(form: type[Form], answer: httpx.Response) -> Form:
    try:
        return form.model_validate_json(answer.content)
    except ValidationError as error:
        fields = ", ".join(str(part) for item in error.errors() for part in item["loc"][:1])
        raise Unreachable(
            f"the identity provider's answer at {answer.url.path} is of no use: {fields}"
        ) from None


def _key_for(header: Mapping[str, Any], keys: _Keys) -> jwt.PyJWK:
    """Find the one key of the provider that a token says it is signed with."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in _ALGORITHMS:
        raise jwt.InvalidAlgorithmError(f"it is signed with {algorithm!r}")
    fitting = [
        key
        for key in keys.keys
        if key.get("kty") in _KINDS
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (kid is None or key.get("kid") == kid)
    ]
    if len(fitting) != 1:
        raise jwt.InvalidKeyError("it is signed with a key that the provider does not name")
    return jwt.PyJWK(fitting[0], algorithm)


def _is_safe(address: str, issuer: str) -> bool:
    """Say whether an address is encrypted; on this machine a provider may do without, for trials."""
    parts, home = urlsplit(address), urlsplit(issuer)
    if parts.scheme == "https":
        return bool(parts.hostname)
    local = is_loopback(parts.hostname or "") and is_loopback(home.hostname or "")
    return parts.scheme == home.scheme == "http" and local


def _basic(name: str, secret: str) -> str:
    pair = f"{quote(name, safe='')}:{quote(secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _digest(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
