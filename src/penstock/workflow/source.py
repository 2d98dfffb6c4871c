"""A workflow file as plain data, with the place of every key and value.

Only the JSON part of YAML 1.2 is taken: no anchors, tags, merge keys or second documents.
The parser's events are read one by one, without recursion, so hostile nesting is refused
before it costs anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from penstock.errors import Problem, SpecError
from penstock.workflow.scalars import join_surrogates, raw_offset, resolve_plain
from penstock.workflow.suggestions import shorten

MAX_BYTES = 256 * 1024
"""Largest workflow file."""
MAX_DEPTH = 50
"""Deepest nesting of mappings and lists."""

_SEPARATORS = re.compile("[\x85\u2028\u2029]")
"""Characters that JSON takes as text and that old YAML takes as ends of lines."""

Path = tuple[str | int, ...]
"""Keys and indexes from the root of the file to a value."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands; `line` and `column` count from 1, `start` and `end` are characters."""

    line: int
    column: int
    start: int = 0
    end: int = 0
    style: str = ""


@dataclass(frozen=True)
class Source:
    """A file's data and its places."""

    file: str
    text: str = field(repr=False)
    data: JsonValue = field(repr=False)
    keys: dict[Path, Span] = field(repr=False)
    values: dict[Path, Span] = field(repr=False)

    def problem(self, path: Path, message: str, *, key: bool = False, offset: int | None = None) -> Problem:
        """Make a problem at a place of the file.

        Args:
            path: Where; when nothing is there, the nearest parent that is.
            key: Point at the key rather than at its value.
            offset: Point at this character of a text value.
        """
        line, column = self._place(path, key=key, offset=offset)
        return Problem(self.file, line, column, message)

    def _place(self, path: Path, *, key: bool, offset: int | None) -> tuple[int, int]:
        if key and path in self.keys:
            return self.keys[path].line, self.keys[path].column
        while path not in self.values:
            path, offset = path[:-1], None
        span = self.values[path]
        if offset is None:
            return span.line, span.column
        return self._inside(span, self._text_at(path), offset)

    def _inside(self, span: Span, value: str, offset: int) -> tuple[int, int]:
        raw = self.text[span.start : span.end]
        before = raw[: raw_offset(raw, value, offset, span.style)]
        newlines = before.count("\n")
        if not newlines:
            return span.line, span.column + len(before)
        return span.line + newlines, len(before) - before.rfind("\n")

    def _text_at(self, path: Path) -> str:
        value: Any = self.data
        for step in path:
            value = value[step]
        return value if isinstance(value, str) else ""


def read_source(content: str | bytes, *, file: str) -> Source:
    """Read a YAML or JSON document.

    Args:
        content: The whole file.
        file: Its name in messages.
    Raises:
        SpecError: It is not one plain document; `problems` names every place.
    """
    text = _decode(content, file)
    if separator := _SEPARATORS.search(text):
        message = f"write the line separator as an escape, \\u{ord(separator[0]):04x}"
        raise SpecError.of([Problem(file, *_place_of(text, separator.start()), message)])
    builder = _Builder(file)
    try:
        for event in _events(text):
            builder.take(event)
    except YAMLError as error:
        raise SpecError.of([*builder.problems, _syntax_problem(error, text, file)]) from None
    if builder.problems:
        raise SpecError.of(builder.problems)
    if not builder.documents:
        raise SpecError.of([Problem(file, 1, 1, "the file is empty")])
    return Source(file, text, builder.root, builder.keys, builder.values)


def _decode(content: str | bytes, file: str) -> str:
    try:
        data = content.encode() if isinstance(content, str) else content
        if len(data) > MAX_BYTES:
            message = f"the file has {len(data)} bytes; at most {MAX_BYTES} are allowed"
            raise SpecError.of([Problem(file, 1, 1, message)])
        text = data.decode("utf-8-sig")
    except UnicodeError as error:
        place = _unicode_place(error, content)
        raise SpecError.of([Problem(file, *place, "the file is not valid UTF-8")]) from None
    return text.replace("\r\n", "\n")


def _unicode_place(error: UnicodeError, content: str | bytes) -> tuple[int, int]:
    start = cast("UnicodeDecodeError", error).start
    before = content[:start] if isinstance(content, str) else content[:start].decode(errors="replace")
    return _place_of(before, len(before))


def _events(text: str) -> Iterator[Any]:
    parser: Any = YAML(typ="safe", pure=True)
    parser.version = None
    return parser.parse(text)


def _syntax_problem(error: YAMLError, text: str, file: str) -> Problem:
    facts: Any = error
    if isinstance(error, MarkedYAMLError):
        mark = facts.problem_mark
        return Problem(file, mark.line + 1, mark.column + 1, f"not valid YAML: {facts.problem}")
    position = int(facts.position)
    return Problem(file, *_place_of(text, position), "not valid YAML: a control character is not allowed")


def _place_of(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@dataclass
class _Frame:
    path: Path
    container: dict[str, JsonValue] | list[JsonValue]
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return isinstance(self.container, dict) and self.key is None


class _Builder:
    """Builds plain data out of parser events."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.documents = 0
        self.root: JsonValue = None
        self.keys: dict[Path, Span] = {}
        self.values: dict[Path, Span] = {}
        self._frames: list[_Frame] = []
        self._takers = {
            "DocumentStartEvent": self._document,
            "MappingStartEvent": self._mapping,
            "SequenceStartEvent": self._sequence,
            "MappingEndEvent": self._end,
            "SequenceEndEvent": self._end,
            "ScalarEvent": self._scalar,
            "AliasEvent": self._alias,
        }

    def take(self, event: Any) -> None:
        taker = self._takers.get(type(event).__name__)
        if taker is None:
            return
        self._refuse_extras(event)
        taker(event)

    def _refuse_extras(self, event: Any) -> None:
        if getattr(event, "anchor", None) and type(event).__name__ != "AliasEvent":
            self._problem(event, "anchors are not allowed; write the value out")
        if getattr(event, "tag", None):
            self._problem(event, "tags are not allowed")

    def _problem(self, event: Any, message: str) -> None:
        mark = event.start_mark
        self.problems.append(Problem(self.file, mark.line + 1, mark.column + 1, message))

    def _stop(self, event: Any, message: str) -> SpecError:
        self._problem(event, message)
        return SpecError.of(self.problems)

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self._stop(event, "a file holds one document")
        if event.version or event.tags:
            self._problem(event, "directives are not allowed")

    def _alias(self, event: Any) -> None:
        self._problem(event, "aliases are not allowed; write the value out")
        if self._frames and self._frames[-1].wants_key:
            self._set_key(event, "*")
        else:
            self._put(event, None)

    def _mapping(self, event: Any) -> None:
        self._open(event, {})

    def _sequence(self, event: Any) -> None:
        self._open(event, [])

    def _open(self, event: Any, container: dict[str, JsonValue] | list[JsonValue]) -> None:
        if self._frames and self._frames[-1].wants_key:
            raise self._stop(event, "a key must be text")
        if len(self._frames) >= MAX_DEPTH:
            raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        self._frames.append(_Frame(self._put(event, container), container))

    def _end(self, _event: Any) -> None:
        self._frames.pop()

    def _scalar(self, event: Any) -> None:
        value = self._value(event)
        if not self._frames or not self._frames[-1].wants_key:
            self._put(event, value)
        elif isinstance(value, str):
            self._set_key(event, value)
        else:
            self._problem(event, f"a key must be text; quote {shorten(event.value)}")
            self._set_key(event, str(event.value))

    def _value(self, event: Any) -> str | float | bool | None:
        text = str(event.value)
        try:
            return join_surrogates(text) if event.style else resolve_plain(text)
        except UnicodeError:
            self._problem(event, "the text holds half a character")
        except ValueError as error:
            self._problem(event, str(error))
        return text.encode(errors="replace").decode()

    def _set_key(self, event: Any, key: str) -> None:
        frame = self._frames[-1]
        if key == "<<" and not event.style:
            self._problem(event, "merge keys are not allowed; write the values out")
        path = (*frame.path, key)
        if path in self.keys:
            first = self.keys[path]
            self._problem(event, f"key {shorten(key)} is already given in line {first.line}")
        else:
            self.keys[path] = _span(event)
        frame.key = key

    def _put(self, event: Any, value: JsonValue) -> Path:
        if not self._frames:
            self.root = value
            path: Path = ()
        else:
            path = self._put_inside(self._frames[-1], value)
        self.values[path] = _span(event)
        return path

    def _put_inside(self, frame: _Frame, value: JsonValue) -> Path:
        if isinstance(frame.container, list):
            frame.container.append(value)
            return (*frame.path, len(frame.container) - 1)
        key = cast("str", frame.key)
        frame.key = None
        frame.container[key] = value
        return (*frame.path, key)


def _span(event: Any) -> Span:
    start, end = event.start_mark, event.end_mark
    style = getattr(event, "style", None) or ""
    return Span(start.line + 1, start.column + 1, start.index, end.index, style)
