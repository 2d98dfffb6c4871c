"""`penstock policies`: check people and policies, show them, and try what they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.exits import print_json, reported
from penstock.cli.tables import print_table
from penstock.cli.text import local_time, one_line
from penstock.errors import InputInvalid, SpecError, UnknownAgentError
from penstock.settings import load_settings

if TYPE_CHECKING:
    from penstock.approvals.people import People
    from penstock.approvals.policy import Match, Policy
    from penstock.approvals.rules import Rules
    from penstock.approvals.terms import Clause

__all__ = ["app"]

app = typer.Typer(help="Check, show and try policies.", no_args_is_help=True)

PeopleFile = Annotated[
    Path | None, typer.Option("--people", help="People file; unset means PENSTOCK_PEOPLE.")
]
PolicyFolder = Annotated[
    Path | None, typer.Option("--policies", help="Folder of policies; unset means PENSTOCK_POLICIES.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("check")
def check_policies(people: PeopleFile = None, policies: PolicyFolder = None) -> None:
    """Check people and policies, and tell every mistake as file:line:column.

    A rule that the known people could never meet is a mistake as well. Exit code 2 with mistakes.
    """
    from penstock.approvals.satisfiable import unsatisfiable_policies  # noqa: PLC0415  quick start

    with reported():
        rules = _read(people, policies)
        for line in _summary(rules):
            typer.echo(line)
        if problems := unsatisfiable_policies(rules):
            raise SpecError.of(problems)


@app.command("show")
def show_policies(people: PeopleFile = None, policies: PolicyFolder = None, as_json: AsJson = False) -> None:
    """Show the people and the policies that are in force."""
    with reported(as_json=as_json):
        rules = _read(people, policies)
    if as_json:
        print_json(_data(rules))
        return
    for line in _summary(rules):
        typer.echo(line)
    if rules.people.users:
        rows = [
            (one.name, "yes" if one.approver else "no", ", ".join(sorted(one.groups)), one.full_name)
            for one in rules.people.users
        ]
        _print_section(("PERSON", "APPROVER", "GROUPS", "NAME"), rows)
    if rules.policies.items:
        rows = [row for policy in rules.policies.items for row in _rows(policy)]
        _print_section(("SOURCE", "FOR", "NEEDS", "WHY"), rows)


@app.command("explain")
def explain(
    *,
    agent: Annotated[str, typer.Option(help="Name of the agent.")],
    target: Annotated[list[str] | None, typer.Option(help="Target of the plan; may be repeated.")] = None,
    workflow: Annotated[str, typer.Option(help="Name of the workflow.")] = "",
    type_: Annotated[
        str | None,
        typer.Option("--type", help="ANALYSIS, MODIFICATION or EXECUTION; unset means the agent's."),
    ] = None,
    at: Annotated[str | None, typer.Option(help="When, as ISO 8601; unset means now.")] = None,
    people: PeopleFile = None,
    policies: PolicyFolder = None,
    as_json: AsJson = False,
) -> None:
    """Tell which approvals an agent would need, and who could give them.

    What a workflow itself asks for comes on top.
    """
    with reported(as_json=as_json):
        rules, now = _read(people, policies), _moment(at)
        kind, own = _agent(agent, type_)
        added = rules.policies.clauses(
            agent=agent, type_=kind, workflow=workflow, targets=target or (), now=now
        )
    clauses = (*own, *added)
    if as_json:
        print_json(
            {
                "version": rules.version,
                "at": now.isoformat(),
                "clauses": [_clause(one, rules.people) for one in clauses],
            }
        )
        return
    if not clauses:
        typer.echo("no approval is needed, unless the workflow asks for one")
    for clause in clauses:
        for line in _told(clause, rules.people):
            typer.echo(line)


def _read(people: Path | None, policies: Path | None) -> Rules:
    from penstock.approvals.rules import read_rules  # noqa: PLC0415  quick start

    settings = load_settings()
    return read_rules(people or settings.people, policies or settings.policies)


def _summary(rules: Rules) -> Iterator[str]:
    if rules.people.closed:
        yield f"people: {len(rules.people.users)} users, {len(rules.people.groups)} groups"
    else:
        yield "people: no file; whoever can use this machine may approve"
    items = rules.policies.items
    for policy in items:
        yield (
            f"{policy.source.file}: policy {policy.name},"
            f" {len(policy.spec.rules)} rules, {len(policy.spec.freezes)} freezes"
        )
    if not items:
        yield "policies: none"
    yield f"version: {rules.version}"


def _print_section(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    typer.echo()
    print_table(head, rows)


def _rows(policy: Policy) -> Iterator[tuple[str, ...]]:
    for rule in policy.spec.rules:
        clause = rule.clause(policy.name)
        yield clause.source, _about(rule.match), _needs(clause), rule.why
    for freeze in policy.spec.freezes:
        clause = freeze.clause_at(policy.name, datetime.now(UTC))
        state = "" if clause is None else " (on)"
        clause = clause or freeze.clause(policy.name, None)
        yield f"{clause.source}{state}", _about(freeze.match), _needs(clause), freeze.why


def _about(match: Match) -> str:
    given = match.model_dump(exclude_none=True)
    return "; ".join(f"{key}: {', '.join(values)}" for key, values in given.items()) or "everything"


def _needs(clause: Clause) -> str:
    from penstock.approvals.quorum import tally  # noqa: PLC0415  quick start
    from penstock.approvals.terms import Terms  # noqa: PLC0415

    return tally(Terms((clause,)), (), now=datetime.min.replace(tzinfo=UTC), escalated=False).needs


def _agent(name: str, type_: str | None) -> tuple[str, tuple[Clause, ...]]:
    """Give an agent's type and what its risk asks for."""
    from penstock import registry  # noqa: PLC0415  agents are slow to import
    from penstock.approvals.terms import Clause  # noqa: PLC0415
    from penstock.contracts import AgentType, Risk  # noqa: PLC0415

    if type_ is not None and type_ not in list(AgentType):
        raise InputInvalid(f"there is no type {type_!r}; the types are {', '.join(AgentType)}")
    try:
        agent = registry.build(load_settings().plugins).get(name)
    except UnknownAgentError:
        if type_ is None:
            raise
        return type_, ()
    always = f"{agent.name} changes things and always needs an approval"
    own = (Clause("risk", always),) if agent.risk is Risk.APPROVAL_REQUIRED else ()
    return type_ or agent.type.value, own


def _moment(text: str | None) -> datetime:
    try:
        found = datetime.fromisoformat(text) if text else datetime.now(UTC)
    except ValueError:
        raise InputInvalid(f"--at takes a moment like 2026-12-20T00:00:00Z, not {text!r}") from None
    return found.astimezone(UTC)


def _told(clause: Clause, people: People) -> Iterator[str]:
    from penstock.approvals.satisfiable import able  # noqa: PLC0415  quick start

    found = able(clause, people)
    yield one_line(f"{clause.source}: {clause.why}")
    yield f"  needs {_needs(clause)}"
    if clause.until is not None:
        yield f"  until {local_time(clause.until)}"
    if clause.forbid:
        yield f"  not from the {' and the '.join(part.replace('_', ' ') for part in clause.forbid)}"
    names = [*found.names, *(["others"] if found.others else [])]
    yield f"  from {one_line(', '.join(names) or 'nobody who is known')}"


def _clause(clause: Clause, people: People) -> dict[str, Any]:
    from penstock.approvals.satisfiable import able  # noqa: PLC0415  quick start
    from penstock.approvals.terms import Terms, terms_to  # noqa: PLC0415

    (data,) = terms_to(Terms((clause,)))["clauses"]
    return {**data, **asdict(able(clause, people))}


def _data(rules: Rules) -> dict[str, Any]:
    people, file = rules.people, rules.people.file
    return {
        "version": rules.version,
        "people": {
            "file": file.source.file if file and file.source else None,
            "users": [
                {
                    "name": one.name,
                    "full_name": one.full_name,
                    "email": one.email,
                    "groups": sorted(one.groups),
                    "approver": one.approver,
                    "password": bool(people.password_of(one.name)),
                }
                for one in people.users
            ],
            "groups": file.model_dump(mode="json", include={"groups"})["groups"] if file else {},
        },
        "policies": [
            {"file": policy.source.file, **policy.spec.model_dump(mode="json", by_alias=True)}
            for policy in rules.policies.items
        ],
    }
