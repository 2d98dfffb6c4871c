"""The people and the policies that are in force, read again whenever their files change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from penstock.approvals.people import People, parse_people
from penstock.approvals.policy import Policies, Policy, parse_policy
from penstock.errors import Problem, SpecError

__all__ = ["RuleBook", "Rules", "read_rules"]

_log = structlog.get_logger(__name__)
_Marks = tuple[tuple[str, int, int, int], ...]
"""Of each file its path, and its number, size and time of change on the disk."""


@dataclass(frozen=True)
class Rules:
    """What is in force at one time."""

    people: People = field(default_factory=People)
    policies: Policies = field(default_factory=Policies)
    version: str = ""
    """SHA-256 of the files' names and bytes, in hexadecimal."""


def read_rules(people: Path | None, policies: Path | None) -> Rules:
    """Read the people file and every `*.yaml` in the folder of policies.

    Raises:
        SpecError: `problems` holds every mistake of every file.
    """
    reader = _Reader()
    found = reader.people(people)
    listed = reader.policies(policies)
    if reader.problems:
        raise SpecError.of(sorted(set(reader.problems)))
    return Rules(found, Policies(tuple(listed)), reader.sha.hexdigest())


class RuleBook:
    """Gives the rules that are in force; when files change and are wrong, those before stay.

    Args:
        people: The people file; None for none.
        policies: The folder of policies; None for none.
    Raises:
        SpecError: A file is wrong or missing; `problems` holds every mistake.
    """

    def __init__(self, people: Path | None, policies: Path | None) -> None:
        self._people = people
        self._policies = policies
        self._marks = self._look()
        self._rules = read_rules(people, policies)
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the newest files are not in force, a line for each mistake; empty when they are."""
        return self._trouble

    def current(self) -> Rules:
        """Give the rules that are in force; files that changed are read again."""
        marks = self._look()
        if marks != self._marks:
            self._marks = marks
            self._reload()
        return self._rules

    def _reload(self) -> None:
        try:
            self._rules = read_rules(self._people, self._policies)
        except SpecError as error:
            self._trouble = error.message
            _log.error("people or policies are wrong; those before stay in force", problems=self._trouble)
        else:
            self._trouble = ""
            _log.info("people and policies were read again", version=self._rules.version)

    def _look(self) -> _Marks:
        return tuple(_mark(path) for path in _files(self._people, self._policies))


class _Reader:
    """Reads files one by one and collects what is wrong with them."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.problems: list[Problem] = []

    def people(self, path: Path | None) -> People:
        content = self._read(path) if path else None
        try:
            return People() if content is None else parse_people(content, file=str(path))
        except SpecError as error:
            self.problems.extend(error.problems)
        return People()

    def policies(self, folder: Path | None) -> list[Policy]:
        found: dict[str, Policy] = {}
        for path in self._listed(folder) if folder else ():
            policy = self._policy(path)
            if policy is not None and policy.name in found:
                message = f"policy {policy.name!r} is already given in {found[policy.name].source.file}"
                self.problems.append(policy.source.problem(("metadata", "name"), message))
            elif policy is not None:
                found[policy.name] = policy
        return list(found.values())

    def _listed(self, folder: Path) -> list[Path]:
        try:
            return _policy_files(folder)
        except OSError as error:
            self.problems.append(_unreadable(folder, error))
        return []

    def _policy(self, path: Path) -> Policy | None:
        content = self._read(path)
        if path.suffix != ".yaml":
            self.problems.append(Problem(str(path), 1, 1, "a policy's file is named *.yaml"))
            return None
        try:
            return None if content is None else parse_policy(content, file=str(path))
        except SpecError as error:
            self.problems.extend(error.problems)
        return None

    def _read(self, path: Path) -> bytes | None:
        try:
            content = path.read_bytes()
        except OSError as error:
            self.problems.append(_unreadable(path, error))
            return None
        self.sha.update(f"{path.name}\0{len(content)}\0".encode(errors="surrogateescape"))
        self.sha.update(content)
        return content


def _unreadable(path: Path, error: OSError) -> Problem:
    return Problem(str(path), 1, 1, f"cannot be read: {error.strerror}")


def _policy_files(folder: Path) -> list[Path]:
    """List the files of policies, sorted by name; hidden files are an editor's or the system's own."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in {".yaml", ".yml"} and not path.name.startswith(".")
    )


def _files(people: Path | None, policies: Path | None) -> Iterator[Path]:
    if people is not None:
        yield people
    if policies is not None:
        yield policies
        with suppress(OSError):  # reading it says what is wrong
            yield from _policy_files(policies)


def _mark(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns
