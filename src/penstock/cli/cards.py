"""The card of a request for approval, as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from penstock.cli.text import local_time, one_line, plain

__all__ = ["card_lines", "missing"]

_WIDEST_LABEL = 9
_LONGEST_INPUT = 200
_STATES = {"approve": "approved", "reject": "rejected", "send_back": "sent_back"}
_DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def missing(request: Mapping[str, Any]) -> str:
    """Say what a request still needs, or what became of it."""
    if request["state"] == "open":
        return one_line(request["needs"])
    people = ", ".join(said["person"] for said in request["decisions"] if _brought(said) == request["state"])
    state = str(request["state"]).replace("_", " ")
    return one_line(f"{state} by {people}" if people else state)


def _brought(said: Mapping[str, Any]) -> str:
    """Give the state that a decision leads to."""
    return "edited" if said["edits"] is not None else _STATES[said["decision"]]


def card_lines(request: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of a card: what, where, why, the plan, the diff, the decisions, the commands.

    A diff is coloured; whoever prints to something else than a terminal strips that.
    """
    card: Mapping[str, Any] = request["card"]
    yield typer.style(one_line(request["title"]), bold=True)
    for label, value in _facts(request, card):
        yield f"  {label.ljust(_WIDEST_LABEL)}  {one_line(value)}"
    plan: Mapping[str, Any] | None = card.get("plan")
    if plan is not None:
        yield from _plan(plan)
    yield from _inputs(card.get("inputs") or {}, whole=plan is None)
    yield from _conditions(request)
    yield from _decisions(request)
    if request["state"] == "open":
        yield from ("", f"penstock approvals approve {request['id']}")
        yield f"penstock approvals reject {request['id']}"
        yield f"penstock approvals send-back {request['id']} --comment '…'"
        for name, schema in request["editable"].items():
            kind = schema.get("type", "JSON")
            yield f"penstock approvals approve {request['id']} --edit {name}=…  ({kind})"


def _facts(request: Mapping[str, Any], card: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    is_open = request["state"] == "open"
    agent: Mapping[str, Any] = card.get("agent") or {}
    yield "state", f"open, needs {missing(request)}" if is_open else missing(request)
    if request["reason"]:
        yield "because", request["reason"]
    yield "workflow", f"{card.get('workflow')}, revision {card.get('revision')}"
    yield "node", request["node"]
    yield "run", f"{card.get('run')} ({request['run_id']})"
    yield "agent", f"{agent.get('name')} {agent.get('version')}: {agent.get('does')}"
    yield "asked by", card.get("requester")
    yield "why", card.get("why")
    if request["alike"] > 1:
        yield "alike", f"{request['alike']} open requests for exactly this; --alike decides all"
    yield "since", local_time(request["opened_at"])
    if request["expires_at"]:
        yield "until", local_time(request["expires_at"])
    yield "undo", card.get("undo") or "cannot be undone"
    if request["may_decide"]:
        yield "you", f"may not decide: {request['may_decide']}"
    yield from _said_before(card)


def _said_before(card: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Give what has happened to this since it was asked first, and what came of such things before."""
    if note := card.get("note"):
        yield "sent back", f"by {note['person']}: {note['text']}"
    if edited := card.get("edited"):
        for name, value in edited["inputs"].items():
            yield "edited", f"by {edited['person']}: {name} from {value['before']!r} to {value['after']!r}"
    for change in card.get("changed") or ():
        yield "changed", _change(change)
    for past in card.get("history") or ():
        by = ", ".join(past["approved_by"])
        yield "before", f"{local_time(past['at'])} {past['state']}, approved by {by} (run {past['run_id']})"


def _change(change: Mapping[str, str]) -> str:
    if change["what"] == "plan.diff":
        return "the diff; the new one is below"
    return f"{change['what']} from {change['before'] or 'nothing'} to {change['after'] or 'nothing'}"


def _plan(plan: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", one_line(plan["summary"]))
    told = {change["target"] for change in plan["changes"]}
    for change in plan["changes"]:
        yield f"  {one_line(' '.join((change['action'], change['target'], change['detail'])))}"
    for target in plan["targets"]:
        if target not in told:
            yield f"  {one_line(target)}"
    if plan["diff"]:
        yield ""
        yield from (_coloured(plain(line)) for line in str(plan["diff"]).split("\n"))


def _coloured(line: str) -> str:
    colour = _DIFF_COLOURS.get(line[:1])
    return typer.style(line, fg=colour) if colour else line


def _inputs(inputs: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    """Give what the agent gets: all of it where there is no plan that says what comes of it."""
    if inputs:
        yield from ("", "inputs")
    for name, value in inputs.items():
        text = plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        if len(text) > _LONGEST_INPUT and not whole:
            text = f"{text[:_LONGEST_INPUT]}… ({len(text):,} characters; --json shows all)"
        first, *rest = text.split("\n")
        yield f"  {one_line(name)}: {first}"
        yield from (f"    {line}" for line in rest)


def _conditions(request: Mapping[str, Any]) -> Iterator[str]:
    """Give what has to be met, each with who has approved for it."""
    if request["state"] == "open" and request["clauses"]:
        yield from ("", "needs")
        for clause in request["clauses"]:
            given = ", ".join(clause["given"])
            who = " or ".join(clause["of"]) or "any approver"
            met = "x" if not clause["missing"] else " "
            count = f"{clause['count'] - clause['missing']} of {clause['count']} from {who}"
            by = f", approved by {given}" if given else ""
            about = f"{clause['source']}: {clause['why']}"
            yield f"  {one_line(f'[{met}] {count}{by} ({about})')}"


def _decisions(request: Mapping[str, Any]) -> Iterator[str]:
    if request["decisions"]:
        yield from ("", "decisions")
    for said in request["decisions"]:
        comment = f": {said['comment']}" if said["comment"] else ""
        comment = f" breaking the glass{comment}" if said["break_glass"] else comment
        about = f"{said['person']}: {said['decision']} ({said['via']}, {local_time(said['at'])}){comment}"
        yield f"  {one_line(about)}"
