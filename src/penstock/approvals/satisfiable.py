"""Whether the people who are known could ever approve what a workflow or a policy asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.approvals.people import People, Person
from penstock.approvals.policy import Policy
from penstock.approvals.quorum import matching, stands_for
from penstock.approvals.rules import Rules
from penstock.approvals.terms import Clause
from penstock.contracts import AgentType, Risk
from penstock.errors import Problem
from penstock.workflow import Workflow, canonical_json
from penstock.workflow.source import Path, read_source
from penstock.workflow.spec import Approval, Node
from penstock.workflow.suggestions import suggest

__all__ = ["Able", "GatedAgent", "able", "unsatisfiable", "unsatisfiable_policies"]


class GatedAgent(Protocol):
    """What has to be known of an agent; `AgentInfo` and `Agent` have it."""

    @property
    def risk(self) -> Risk:
        """Whether it may run by itself."""
        ...

    @property
    def type(self) -> AgentType:
        """What kind of work it does."""
        ...


@dataclass(frozen=True)
class Able:
    """Who could meet a clause, as far as that is known."""

    names: tuple[str, ...]
    """People who could by what the files say."""
    others: bool
    """Whether there may be others, by what an identity provider says or for want of a people file."""
    most: int | None
    """How many people could be counted at the same time; None when there is no bound."""


def able(clause: Clause, people: People, *, without: str = "") -> Able:
    """Find who could meet a clause; the requester, who is not known yet, is counted in.

    Args:
        without: A person who is out of the question; empty for nobody.
    """
    persons = [person for person in _persons(clause, people) if person.name != without]
    named = [
        person.name
        for person in persons
        if person.approver and (not clause.of or stands_for(clause, person.name, person.groups))
    ]
    # Whoever is known may be in an open group as well, and may be an approver by one.
    entries = {
        person.name: stands_for(clause, person.name, person.groups | people.open_groups)
        for person in persons
        if person.approver or people.open_to_approvers
    }
    possible = {name: own for name, own in entries.items() if own or not clause.of}
    strangers = _open_entries(clause, people)
    unbound = people.open_to_approvers and (not clause.of or (bool(strangers) and not clause.distinct_groups))
    others = unbound or bool(strangers) or len(possible) > len(named)
    return Able(tuple(named), others, None if unbound else _most(clause, possible, strangers))


def _persons(clause: Clause, people: People) -> Sequence[Person]:
    """List people who are known; without a file, those whom the clause names."""
    if people.closed:
        return people.users
    entries = dict.fromkeys(clause.of)
    return [Person(entry.removeprefix("user:")) for entry in entries if entry.startswith("user:")]


def _open_entries(clause: Clause, people: People) -> frozenset[str]:
    """Give the entries of a clause that approvers whom no file names may stand for."""
    groups = people.open_groups if people.open_to_approvers else frozenset[str]()
    return frozenset(clause.of) & {f"group:{name}" for name in groups}


def _most(clause: Clause, possible: Mapping[str, Sequence[str]], strangers: frozenset[str]) -> int:
    if not clause.distinct_groups:
        return len(possible)
    # Strangers stand for the groups that are open to them; the rest is left to people who are known.
    rest = {name: [entry for entry in own if entry not in strangers] for name, own in possible.items()}
    return len(strangers) + len(matching(rest))


def unsatisfiable(
    workflow: Workflow, agents: Mapping[str, GatedAgent], rules: Rules, *, editor: str
) -> list[Problem]:
    """Find the gates of a workflow that the people who are known could never open.

    Policies count as far as they do not depend on targets or on the time.

    Args:
        agents: By name; nodes with other agents are passed over.
        editor: Who applies the workflow.
    Returns:
        What is wrong, with its place in the file, in order.
    """
    source = workflow.source or read_source(canonical_json(workflow), file=workflow.name)
    branches = workflow.error_branches.items()
    nodes: list[tuple[Path, Node]] = [
        *((("nodes", index), node) for index, node in enumerate(workflow.nodes)),
        *((("error_branches", name, at), node) for name, nodes in branches for at, node in enumerate(nodes)),
    ]
    return sorted(
        source.problem((*path, *inner), message)
        for path, node in nodes
        if (agent := agents.get(node.agent or ""))
        for inner, message in _of_node(workflow, node, agent, rules, editor)
    )


def _of_node(
    workflow: Workflow, node: Node, agent: GatedAgent, rules: Rules, editor: str
) -> Iterator[tuple[Path, str]]:
    added = [
        rule.clause(policy.name)
        for policy in rules.policies.items
        for rule in policy.spec.rules
        if rule.match.targets is None
        and rule.match.may_fit(agent=node.agent or "", type_=agent.type.value, workflow=workflow.name)
    ]
    own = list(_own_clause(node.approval, agent))
    forbidden = any("last_editor" in clause.forbid for clause in (*own, *added))
    without = editor if forbidden else ""
    if node.approval is not None:
        yield from _unknown_names(node.approval, rules.people)
    for clause in own:
        at: Path = ("approval", "require") if node.approval else ("agent",)
        yield from ((at, message) for message in _shortfall(clause, rules.people, without))
    for clause in added:
        unknown = (message for _, message in _unknown(clause.of, rules.people))
        for message in (*unknown, *_shortfall(clause, rules.people, without)):
            yield ("agent",), f"{clause.source}: {message}"


def _own_clause(approval: Approval | None, agent: GatedAgent) -> Iterator[Clause]:
    """Give what the node itself asks for; those who are asked later are counted in."""
    if approval is not None:
        require, later = approval.require, approval.escalate.to if approval.escalate else ()
        yield Clause(
            source="workflow",
            why="",
            count=require.count,
            of=(*require.from_, *later) if require.from_ else (),
            distinct_groups=require.distinct_groups,
            forbid=tuple(approval.forbid),
        )
    elif agent.risk is Risk.APPROVAL_REQUIRED:
        yield Clause("risk", "")


def _unknown_names(approval: Approval, people: People) -> Iterator[tuple[Path, str]]:
    for index, message in _unknown(approval.require.from_, people):
        yield ("approval", "require", "from", index), message
    for index, message in _unknown(approval.escalate.to if approval.escalate else (), people):
        yield ("approval", "escalate", "to", index), message


def unsatisfiable_policies(rules: Rules) -> list[Problem]:
    """Find the rules and the freezes that the people who are known could never meet.

    Returns:
        What is wrong, with its place in the policy's file, in order.
    """
    return sorted(
        policy.source.problem((*path, *inner), message)
        for policy in rules.policies.items
        for path, clause in _clauses(policy)
        for inner, message in _of_clause(clause, rules.people)
    )


def _clauses(policy: Policy) -> Iterator[tuple[Path, Clause]]:
    for index, rule in enumerate(policy.spec.rules):
        yield ("rules", index, "require"), rule.clause(policy.name)
    for index, freeze in enumerate(policy.spec.freezes):
        yield ("freezes", index, "break_glass"), freeze.clause(policy.name, None)


def _of_clause(clause: Clause, people: People) -> Iterator[tuple[Path, str]]:
    for index, message in _unknown(clause.of, people):
        yield ("from", index), message
    yield from (((), message) for message in _shortfall(clause, people, ""))


def _unknown(entries: Sequence[str], people: People) -> Iterator[tuple[int, str]]:
    """Find entries that name nobody, with their index."""
    users = [person.name for person in people.users]
    for index, entry in enumerate(entries):
        kind, _, name = entry.partition(":")
        if kind == "group" and not people.closed:
            yield index, f"there is no group {name!r}: there is no people file; set PENSTOCK_PEOPLE"
        elif kind == "group" and name not in people.groups:
            yield index, f"unknown group {name!r}{suggest(name, people.groups)}"
        elif kind == "user" and people.closed and name not in users:
            yield index, f"unknown user {name!r}{suggest(name, users)}"


def _shortfall(clause: Clause, people: People, without: str) -> Iterator[str]:
    """Say that too few people could meet a clause; names that are unknown are told apart from this."""
    found = able(clause, people, without=without)
    if found.most is None or found.most >= clause.count or any(_unknown(clause.of, people)):
        return
    who = f" from {' or '.join(dict.fromkeys(clause.of))}" if clause.of else ""
    each = ", each for another of these" if clause.distinct_groups else ""
    names = f" ({', '.join(found.names)})" if found.names else ""
    left_out = without in able(clause, people).names
    but = f"; {without}, who applies the workflow, may not" if left_out else ""
    needs = f"nobody could ever approve this: it needs {_approvals(clause.count)}{who}{each}"
    yield f"{needs}, and {_people(found.most)} could give one{names}{but}"


def _approvals(count: int) -> str:
    return "1 approval" if count == 1 else f"{count} approvals"


def _people(count: int) -> str:
    return {0: "nobody", 1: "only 1 person"}.get(count, f"only {count} people")
