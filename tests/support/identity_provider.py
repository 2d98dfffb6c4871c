"""An identity provider on loopback: OpenID Connect with real keys, and ways to misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from support.stack import free_port

__all__ = ["CLIENT", "SECRET", "IdentityProvider", "Key", "identity_provider", "new_key"]

CLIENT = "penstock"
SECRET = "s3cret/of:the client"  # noqa: S105  of a provider that lives as long as the test


@dataclass(frozen=True)
class Key:
    """A key pair; `public` is its JWK."""

    kid: str
    algorithm: str
    private: Any
    public: Mapping[str, Any]


def new_key(kid: str = "k1", algorithm: str = "RS256") -> Key:
    """Make a key pair for an algorithm."""
    if algorithm.startswith("ES"):
        private: Any = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(ECAlgorithm.to_jwk(private.public_key()))
    else:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(RSAAlgorithm.to_jwk(private.public_key()))
    return Key(kid, algorithm, private, {**public, "kid": kid, "use": "sig"})


@dataclass
class IdentityProvider:
    """What the provider says; tests change it."""

    issuer: str
    keys: list[Key]
    claims: dict[str, Any] = field(
        default_factory=lambda: {"preferred_username": "carol", "groups": ["okta-release"]}
    )
    """What tokens say, beside the necessary; None takes a necessary claim away."""
    described: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the description of the provider says otherwise."""
    sign: Callable[[dict[str, Any]], str] | None = None
    """Makes the token of claims in another way."""
    extra: dict[str, str] = field(default_factory=dict[str, str])
    """What is put into the answer that the browser carries."""
    secret: str | None = SECRET
    """What programs prove themselves with; None for programs that have no secret."""
    codes: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    def description(self) -> dict[str, Any]:
        """Describe the provider, as programs read it."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            **self.described,
        }

    def let_in(self, query: Mapping[str, str]) -> str:
        """Give the address to which a browser is sent back, as if a person had signed in."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        answer = {"code": code, "state": query["state"], **self.extra}
        return f"{query['redirect_uri']}?{urlencode(answer)}"

    def redeem(self, authorization: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Give status and answer for a code: good once, for who began the login."""
        if not self._knows_client(authorization, form):
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": self.token(asked["nonce"])}

    def token(self, nonce: str) -> str:
        """Make an ID token."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "0815",
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.sign is not None:
            return self.sign(claims)
        key = self.keys[-1]
        return jwt.encode(claims, key.private, key.algorithm, headers={"kid": key.kid})

    def _knows_client(self, authorization: str, form: Mapping[str, str]) -> bool:
        if self.secret is None:
            return (authorization, form.get("client_id"), form.get("client_secret")) == ("", CLIENT, None)
        if "client_secret_basic" not in self.description()["token_endpoint_auth_methods_supported"]:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT, self.secret)
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return (unquote(pair[0]), unquote(pair[2])) == (CLIENT, self.secret)


@contextmanager
def identity_provider() -> Generator[IdentityProvider]:
    """Run a provider for as long as the block lasts."""
    port = free_port()
    provider = IdentityProvider(f"http://127.0.0.1:{port}", [new_key()])
    config = uvicorn.Config(_app(provider), host="127.0.0.1", port=port, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started, "the identity provider did not start"
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(30)


def _app(provider: IdentityProvider) -> FastAPI:
    app = FastAPI()

    @app.get("/.well-known/openid-configuration")
    def describe() -> dict[str, Any]:
        return provider.description()

    @app.get("/keys")
    def keys() -> dict[str, Any]:
        return {"keys": [key.public for key in provider.keys]}

    @app.get("/authorize")
    def authorize(request: Request) -> Response:
        return RedirectResponse(provider.let_in(dict(request.query_params)), 302)

    @app.post("/token")
    async def token(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        status, answer = provider.redeem(request.headers.get("authorization", ""), form)
        return JSONResponse(answer, status)

    return app
