"""Policies: what must be approved by whom beyond what a workflow asks, and when nothing may change.

A policy only ever adds conditions; nothing in it lowers what a workflow or an agent's risk asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from penstock.approvals.terms import Clause
from penstock.approvals.windows import Moment, Weekly, Window
from penstock.contracts import AgentType
from penstock.errors import Problem, SpecError
from penstock.workflow.fields import Document, Model, Principal, Word
from penstock.workflow.parsing import document_from
from penstock.workflow.source import Path, Source, read_source
from penstock.workflow.spec import Require

__all__ = ["Freeze", "Match", "Policies", "Policy", "PolicyFile", "Rule", "parse_policy"]

_Glob = Annotated[str, Field(min_length=1, max_length=1000)]
_Globs = Annotated[Sequence[_Glob], Field(min_length=1, max_length=500)]
_Type = Literal["ANALYSIS", "MODIFICATION", "EXECUTION"]
_Why = Annotated[str, Field(max_length=2000)]


class Match(Model):
    """What a rule is about: all keys that are given must fit, and of each key any value."""

    agents: _Globs | None = Field(default=None, description="Names of agents; may hold * and ?.")
    targets: _Globs | None = Field(
        default=None, description="Targets of the plan, any of which may fit; may hold * and ?."
    )
    workflows: _Globs | None = Field(default=None, description="Names of workflows; may hold * and ?.")
    types: Annotated[Sequence[_Type], Field(min_length=1)] | None = Field(
        default=None, description="Types of agents; unset means all but ANALYSIS, unless agents are named."
    )

    def may_fit(self, *, agent: str, type_: str, workflow: str) -> bool:
        """Tell whether everything but the targets fits."""
        return _fits(self.agents, (agent,)) and _fits(self.workflows, (workflow,)) and self._fits_type(type_)

    def _fits_type(self, type_: str) -> bool:
        """Tell whether the type fits; what only looks is meant when it is named, by type or by agent."""
        if self.types is not None:
            return type_ in self.types
        return self.agents is not None or type_ != AgentType.ANALYSIS.value

    def fits(self, *, agent: str, type_: str, workflow: str, targets: Collection[str]) -> bool:
        """Tell whether everything fits; what changes things and names no targets may change any."""
        unknown = not targets and type_ != AgentType.ANALYSIS.value
        return self.may_fit(agent=agent, type_=type_, workflow=workflow) and (
            unknown or _fits(self.targets, targets)
        )


def _fits(globs: Sequence[str] | None, values: Collection[str]) -> bool:
    # Brackets are plain characters here; for `fnmatch` they would make a set.
    plain = [glob.replace("[", "[[]") for glob in globs or ()]
    return globs is None or any(fnmatchcase(value, glob) for glob in plain for value in values)


class Rule(Model):
    """Who must approve what fits."""

    name: Word = Field(description="Name of the rule.")
    match: Match = Field(default=Match(), description="What it is about; empty means everything.")
    require: Require = Field(default=Require(), description="Quorum.")
    forbid: Sequence[Literal["requester", "last_editor"]] = Field(
        default=(), description="Who may not approve."
    )
    why: _Why = Field(default="", description="What approvers are told.")

    def clause(self, policy: str) -> Clause:
        """Give the condition that the rule adds."""
        return Clause(
            source=f"policy {policy}/{self.name}",
            why=self.why or f"policy {policy} asks for it: {self.name}",
            count=self.require.count,
            of=tuple(self.require.from_),
            distinct_groups=self.require.distinct_groups,
            forbid=tuple(self.forbid),
        )


class BreakGlass(Model):
    """Who may let something through a freeze."""

    count: Annotated[int, Field(ge=2, le=1000)] = Field(default=2, description="Distinct people; 2 or more.")
    from_: Sequence[Principal] = Field(
        default=(), alias="from", description="Who, as user:name or group:name; empty: any approver."
    )


class Freeze(Model):
    """A time in which nothing that fits may run, unless people break the glass."""

    name: Word = Field(description="Name of the freeze.")
    match: Match = Field(default=Match(), description="What it is about; empty means everything.")
    from_: Moment | None = Field(default=None, alias="from", description="When it begins.")
    to: Moment | None = Field(default=None, description="When it ends.")
    weekly: Weekly | None = Field(default=None, description="Hours of each week, in place of from and to.")
    break_glass: BreakGlass = Field(default=BreakGlass(), description="Who may break it.")
    why: _Why = Field(default="", description="What approvers are told.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        once = (self.from_ is not None, self.to is not None)
        if (self.weekly is None and not all(once)) or (self.weekly is not None and any(once)):
            raise PydanticCustomError("one_of", "give either from and to, or weekly")
        if self.from_ and self.to and self.to <= self.from_:
            raise PydanticCustomError("order", "to must be later than from")
        return self

    def clause(self, policy: str, until: datetime | None) -> Clause:
        """Give the condition that the freeze adds while it is on."""
        return Clause(
            source=f"freeze {policy}/{self.name}",
            why=self.why or f"nothing changes during the freeze {policy}/{self.name}",
            count=self.break_glass.count,
            of=tuple(self.break_glass.from_),
            break_glass=True,
            until=until,
        )

    def clause_at(self, policy: str, now: datetime) -> Clause | None:
        """Give the condition that the freeze adds at a moment; None when it is not on."""
        if self.weekly is not None:
            window = self.weekly.window(now)
        else:
            window = Window(self.from_, self.to) if self.from_ and self.to else None
        return self.clause(policy, window.end) if window and window.holds(now) else None


class Metadata(Model):
    """What the policy is called and for."""

    name: Word = Field(description="Name of the policy.")
    description: str = Field(default="", max_length=2000, description="What it is for, in a sentence.")


class PolicyFile(Document):
    """A whole policy file."""

    api_version: Literal["penstock/v1"] = Field(alias="apiVersion", description="Version of the format.")
    kind: Literal["Policy"] = Field(description="What the file holds.")
    metadata: Metadata = Field(description="Name and purpose.")
    rules: Annotated[Sequence[Rule], Field(max_length=1000)] = Field(
        default=(), description="Who must approve what."
    )
    freezes: Annotated[Sequence[Freeze], Field(max_length=1000)] = Field(
        default=(), description="When nothing may change."
    )


@dataclass(frozen=True)
class Policy:
    """One policy file that has been read."""

    spec: PolicyFile
    source: Source = field(repr=False)

    @property
    def name(self) -> str:
        """The name in the metadata."""
        return self.spec.metadata.name


def parse_policy(text: str | bytes, *, file: str) -> Policy:
    """Read a policy file.

    Args:
        file: Name of the file in messages.
    Raises:
        SpecError: `problems` holds every mistake.
    """
    source = read_source(text, file=file)
    policy = Policy(document_from(source, PolicyFile, what="policy"), source)
    problems = [
        *_twice(source, "rules", policy.spec.rules),
        *_twice(source, "freezes", policy.spec.freezes),
    ]
    if problems:
        raise SpecError.of(problems)
    return policy


def _twice(source: Source, key: str, items: Sequence[Rule | Freeze]) -> Iterator[Problem]:
    seen: dict[str, Path] = {}
    for index, item in enumerate(items):
        path: Path = (key, index, "name")
        if item.name in seen:
            line = source.problem(seen[item.name], "").line
            yield source.problem(path, f"{item.name!r} is already given in line {line}")
        seen.setdefault(item.name, path)


@dataclass(frozen=True)
class Policies:
    """All policies, in the order of their files' names."""

    items: tuple[Policy, ...] = ()

    def clauses(
        self, *, agent: str, type_: str, workflow: str, targets: Collection[str], now: datetime
    ) -> tuple[Clause, ...]:
        """Give the conditions that policies add: file by file, rules before freezes, as they are written.

        Args:
            type_: The agent's type, as in `MODIFICATION`.
            targets: Of the plan.
            now: With a time zone.
        """
        found: list[Clause] = []
        for policy in self.items:
            for item in (*policy.spec.rules, *policy.spec.freezes):
                if item.match.fits(agent=agent, type_=type_, workflow=workflow, targets=targets):
                    clause = (
                        item.clause(policy.name)
                        if isinstance(item, Rule)
                        else item.clause_at(policy.name, now)
                    )
                    found += [clause] if clause else []
        return tuple(found)

    def may_concern(self, *, agent: str, type_: str, workflow: str) -> bool:
        """Tell whether any rule or freeze fits with some target at some time."""
        return any(
            item.match.may_fit(agent=agent, type_=type_, workflow=workflow)
            for policy in self.items
            for item in (*policy.spec.rules, *policy.spec.freezes)
        )
