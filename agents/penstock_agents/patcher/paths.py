"""Names of files as they stand in a diff: quoting, and which of them are refused."""

from __future__ import annotations

import re

_LONGEST = 4096
_LONGEST_PART = 255
_ESCAPE = re.compile(r'\\([abfnrtv"\\]|[0-3][0-7]{2})')
_LETTERS = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SHORT_NAME = re.compile(r"git~[0-9]+")
_DRIVE = re.compile(r"[A-Za-z]:")


def read(text: str) -> tuple[str, str]:
    """Read the name at the beginning of a text; return it and what follows.

    A name in double quotes is written as git and C write it. Any other name goes up to a tab.

    Raises:
        ValueError: The quotes, an escape or the encoding is wrong.
    """
    if not text.startswith('"'):
        name, tab, rest = text.partition("\t")
        return name, tab + rest
    quoted = _QUOTED.match(text)
    if quoted is None:
        raise ValueError("a quoted name has no end")
    return _unescaped(quoted[1]), text[quoted.end() :]


def _unescaped(text: str) -> str:
    if "\\" in _ESCAPE.sub("", text):
        raise ValueError("a quoted name holds an unknown escape")
    data = b""
    for position, piece in enumerate(_ESCAPE.split(text)):
        if position % 2 == 0:
            data += piece.encode()
        else:
            data += bytes([_LETTERS[piece] if piece in _LETTERS else int(piece, 8)])
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("a name is not valid UTF-8; rename the file first") from None


def quote(name: str) -> str:
    """Write a name that `check` accepts so that git reads it back."""
    return '"' + name.replace('"', '\\"') + '"'


def written(name: str) -> str:
    """Write a name for a header of a diff: in quotes only where it needs them."""
    return quote(name) if '"' in name else name


def check(path: str) -> None:
    """Refuse a path that leads out of the repository, into git's own folder, or deceives the eye.

    Raises:
        ValueError: It does; the message says why.
    """
    if not path.isprintable():
        raise ValueError(f"the path {path[:200]!r} holds characters that cannot be seen")
    if path.startswith("/") or _DRIVE.match(path):
        raise ValueError(f"the path {path[:200]!r} is absolute")
    if "\\" in path:
        raise ValueError(f"the path {path[:200]!r} holds a backslash")
    if len(path.encode()) > _LONGEST:
        raise ValueError(f"the path {path[:200]!r}… is too long")
    for part in path.split("/"):
        _check_part(path, part)


def _check_part(path: str, part: str) -> None:
    if part in {"", ".", ".."}:
        raise ValueError(
            f"the path {path[:200]!r} has a part that is {part!r}; it must stay in the repository"
        )
    if len(part.encode()) > _LONGEST_PART:
        raise ValueError(f"the path {path[:200]!r} has a part that is too long")
    if _is_git_folder(part):
        raise ValueError(f"the path {path[:200]!r} leads into git's own folder")


def _is_git_folder(part: str) -> bool:
    """Say whether some file system takes a name for `.git`: by case, by stream, by what it strips."""
    plain = part.partition(":")[0].rstrip(". ").lower()
    return plain == ".git" or bool(_SHORT_NAME.fullmatch(plain))
