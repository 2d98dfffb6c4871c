"""Text for a terminal: what came from outside is shown and never steers it."""

from __future__ import annotations

from datetime import datetime

__all__ = ["local_time", "one_line", "plain"]


def plain(text: str) -> str:
    """Show characters that a terminal would obey, or that hide others, as escapes; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else _escape(one) for one in text)


def one_line(value: object) -> str:
    """Show a value on one line."""
    return plain(" ".join(str(value).split()))


def local_time(at: datetime | str) -> str:
    """Give a moment, or its ISO text, in the time zone of the person who reads it."""
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{moment.astimezone():%F %T}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
