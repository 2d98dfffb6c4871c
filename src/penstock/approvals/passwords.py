"""Passwords: hashed with scrypt, for the people file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata

__all__ = ["SHORTEST", "check_password", "hash_password"]

SHORTEST = 12
"""Characters that a password has at least."""

_N, _R, _P = 2**15, 8, 3
"""Cost: 32 MiB of memory and some tenths of a second."""
_MOST_MEMORY = 256 * 1024 * 1024
_FORM = re.compile(r"scrypt\$(\d{1,8})\$(\d{1,3})\$(\d{1,3})\$([A-Za-z0-9_-]{11,128})\$([A-Za-z0-9_-]{43})")
_DECOY = f"scrypt${_N}${_R}${_P}${'A' * 22}${'A' * 43}"
"""What a password is compared with when there is nothing else: it takes as long and never fits."""


def hash_password(password: str) -> str:
    """Write a password's hash as `scrypt$n$r$p$salt$hash`."""
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${_text(salt)}${_text(digest)}"


def check_password(password: str, stored: str) -> bool:
    """Say whether a password fits a hash; takes as long when there is no hash (`""`).

    Raises:
        ValueError: The hash is of no form that `hash_password` writes, or far too costly.
    """
    match = _FORM.fullmatch(stored or _DECOY)
    if match is None:
        raise ValueError("a password's hash is not of the form scrypt$n$r$p$salt$hash")
    n, r, p = (int(number) for number in match.groups()[:3])
    digest = _scrypt(password, _bytes(match[4]), n, r, p)
    return hmac.compare_digest(digest, _bytes(match[5])) and bool(stored)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # Keyboards differ in how they write one and the same letter.
    plain = unicodedata.normalize("NFC", password).encode(errors="surrogatepass")
    return hashlib.scrypt(plain, salt=salt, n=n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=32)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
