"""Send a message to Apprise addresses; they hold credentials and reach no log, result or error.

Titles and bodies come from alerts and repositories, so they are data: control characters go,
mentions that would ring everybody are broken, and services are told that it is plain text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import apprise

__all__ = ["BODY_LENGTH", "Addresses", "Level", "Message", "line", "plain", "send_all"]

_TITLE_LENGTH = 250
BODY_LENGTH = 10_000
"""Most characters of a body; the rest is cut."""
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_MENTION = re.compile(r"(?i)@(?=everyone\b|here\b|channel\b|all\b|room\b)|<(?=[!@#&])")
_LOGGERS = ("apprise", "urllib3.connectionpool")
_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


class Level(StrEnum):
    """How much it matters."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


@runtime_checkable
class Addresses(Protocol):
    """What a notification block offers."""

    def addresses(self) -> list[str]:
        """Reveal the addresses."""
        ...


@dataclass(frozen=True)
class Message:
    """What is sent."""

    title: str
    body: str
    level: Level


def send_all(addresses: Sequence[str], message: Message) -> list[str]:
    """Send to each address; give, for each, what went wrong, for our own eyes."""
    return [_send(address, message) for address in addresses]


def _send(address: str, message: Message) -> str:
    with _listening() as heard:
        client = apprise.Apprise()
        service = client.instantiate(address)  # pyright: ignore[reportUnknownMemberType]  partly typed
        if not isinstance(service, apprise.NotifyBase):
            return "not an address"
        service.notify_format = apprise.NotifyFormat.TEXT
        client.add(service)  # pyright: ignore[reportUnknownMemberType]  partly typed
        sent = client.notify(  # pyright: ignore[reportUnknownMemberType]  partly typed
            title=message.title,
            body=message.body or message.title,
            notify_type=apprise.NotifyType(message.level.value),
            body_format=apprise.NotifyFormat.TEXT,
        )
        return "" if sent else " ".join(heard) or "refused"


@contextmanager
def _listening() -> Generator[list[str]]:
    """Keep what the libraries log while sending: it says why, but it also quotes addresses."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _hush not in logger.filters:
            logger.addFilter(_hush)
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def _hush(record: logging.LogRecord) -> bool:
    heard = _heard.get()
    if heard is None:
        return True
    heard.append(record.getMessage())
    return False


def line(text: str) -> str:
    """Make text one line, fit for a title."""
    return " ".join(plain(text, _TITLE_LENGTH * 4).split())[:_TITLE_LENGTH]


def plain(text: str, length: int) -> str:
    """Strip what a reader cannot see, break mentions of everybody, and cap the length."""
    kept = _UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    kept = _MENTION.sub(lambda found: f"{found[0]}\u200b", kept)
    return kept if len(kept) <= length else kept[: length - 1] + "\u2026"
