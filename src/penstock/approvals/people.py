"""Who people are: names, groups and roles, from a file and from what a login says of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from penstock.errors import SpecError
from penstock.workflow.fields import Document, Model, PersonName
from penstock.workflow.parsing import document_from
from penstock.workflow.source import Path, read_source
from penstock.workflow.suggestions import suggest

__all__ = ["People", "PeopleFile", "Person", "Role", "parse_people"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_HASH = re.compile(r"scrypt\$[0-9]{1,8}(\$[0-9]{1,3}){2}\$[A-Za-z0-9_-]{11,128}\$[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Person:
    """Somebody who is known, as of now."""

    name: str
    groups: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    """What an identity provider said of the person's groups."""
    approver: bool = True
    """Whether the person's role lets him decide anything at all."""
    full_name: str = ""
    email: str = ""


Role = Literal["viewer", "agent", "operator", "approver", "admin"]
"""What somebody may do."""

_APPROVERS = frozenset({"approver", "admin"})


def _password(value: object) -> SecretStr:
    # The message never shows what was given: it may be a password.
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise PydanticCustomError("password", "must be a hash as `penstock people password` prints it")
    return SecretStr(value)


class UserSpec(Model):
    """One person of the file."""

    name: str = Field(default="", max_length=200, description="Name in full.")
    email: str = Field(default="", max_length=320, description="Address.")
    groups: Sequence[PersonName] = Field(default=(), description="Groups that the person is a member of.")
    role: Role = Field(default="viewer", description="What the person may do.")
    password: Annotated[SecretStr, BeforeValidator(_password)] | None = Field(
        default=None, description="Hash of the password, as `penstock people password` prints it."
    )


class GroupSpec(Model):
    """One group of the file."""

    members: Sequence[PersonName] = Field(
        default=(), description="Members, beside the users who name the group."
    )
    role: Role = Field(default="viewer", description="What every member may do.")
    claims: Sequence[Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default=(), description="Values of the identity provider's groups claim that make somebody a member."
    )


class PeopleFile(Document):
    """A whole people file."""

    api_version: Literal["penstock/v1"] = Field(alias="apiVersion", description="Version of the format.")
    kind: Literal["People"] = Field(description="What the file holds.")
    users: Mapping[PersonName, UserSpec] = Field(
        default_factory=dict[str, UserSpec], description="People by the name that they sign in with."
    )
    groups: Mapping[PersonName, GroupSpec] = Field(
        default_factory=dict[str, GroupSpec], description="Groups by name."
    )


_NO_GROUPS: Mapping[str, GroupSpec] = {}


@dataclass(frozen=True)
class People:
    """Everybody who is known; without a file, whoever is there is an approver and there are no groups."""

    file: PeopleFile | None = field(default=None, repr=False)

    @property
    def closed(self) -> bool:
        """Whether a file says who is known."""
        return self.file is not None

    @property
    def groups(self) -> frozenset[str]:
        """The names of all groups."""
        return frozenset(self._specs)

    @property
    def users(self) -> tuple[Person, ...]:
        """Everybody under `users:`, in the order of the file, with the groups that the file gives."""
        users = self.file.users.items() if self.file else ()
        return tuple(self._user(name, spec, ()) for name, spec in users)

    @property
    def open_groups(self) -> frozenset[str]:
        """The groups that an identity provider can put people into."""
        return frozenset(name for name, spec in self._specs.items() if spec.claims)

    @property
    def open_to_approvers(self) -> bool:
        """Whether there may be approvers whom no file names."""
        return not self.closed or any(self._specs[name].role in _APPROVERS for name in self.open_groups)

    def find(self, name: str, *, claims: Collection[str] = ()) -> Person | None:
        """Give a person with groups and role.

        Args:
            claims: The groups that an identity provider says somebody is in.
        Returns:
            None when nobody of that name is known: neither a user of the file nor a member of a
            group by a claim.
        """
        if self.file is None:
            return Person(name)
        if name in self.file.users:
            return self._user(name, self.file.users[name], claims)
        if not _NAME.fullmatch(name) or not any(self._claimed(claims)):
            return None
        groups = self._groups(name, claims)
        return Person(name, groups, frozenset(claims), self._approves("viewer", groups))

    def password_of(self, name: str) -> str:
        """Give the hash of a person's password; empty when there is none."""
        spec = self.file.users.get(name) if self.file else None
        return spec.password.get_secret_value() if spec and spec.password else ""

    @property
    def _specs(self) -> Mapping[str, GroupSpec]:
        return self.file.groups if self.file else _NO_GROUPS

    def _user(self, name: str, spec: UserSpec, claims: Collection[str]) -> Person:
        groups = self._groups(name, claims).union(spec.groups)
        approves = self._approves(spec.role, groups)
        return Person(name, groups, frozenset(claims), approves, spec.name, spec.email)

    def _groups(self, name: str, claims: Collection[str]) -> frozenset[str]:
        listed = (group for group, spec in self._specs.items() if name in spec.members)
        return frozenset((*listed, *self._claimed(claims)))

    def _claimed(self, claims: Collection[str]) -> Iterator[str]:
        return (group for group, spec in self._specs.items() if not set(spec.claims).isdisjoint(claims))

    def _approves(self, role: str, groups: Collection[str]) -> bool:
        return any(one in _APPROVERS for one in (role, *(self._specs[group].role for group in groups)))


def parse_people(text: str | bytes, *, file: str) -> People:
    """Read a people file.

    Args:
        file: Name of the file in messages.
    Raises:
        SpecError: `problems` holds every mistake; none shows a password or its hash.
    """
    source = read_source(text, file=file)
    found = document_from(source, PeopleFile, what="people")
    if problems := [source.problem(path, message) for path, message in _problems(found)]:
        raise SpecError.of(problems)
    return People(found)


def _problems(found: PeopleFile) -> Iterator[tuple[Path, str]]:
    """Find names that lead nowhere."""
    for name, user in found.users.items():
        for index, group in enumerate(user.groups):
            if group not in found.groups:
                message = f"unknown group {group!r}; declare it under groups{suggest(group, found.groups)}"
                yield ("users", name, "groups", index), message
    if any(group.claims for group in found.groups.values()):
        return  # A member whom the file does not name may come from the identity provider.
    for name, group in found.groups.items():
        for index, member in enumerate(group.members):
            if member not in found.users:
                yield (
                    ("groups", name, "members", index),
                    f"unknown user {member!r}{suggest(member, found.users)}",
                )
