"""The card that an approver sees, the same one in every place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.approvals.characters import visible
from penstock.contracts import Agent, Plan

__all__ = ["joined_card", "make_card", "markdown_of"]

_LONGEST_DIFF = 20_000


def make_card(
    agent: Agent,
    inputs: Mapping[str, Any],
    plan: Plan | None,
    *,
    title: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Make a card, in JSON types.

    Args:
        inputs: Without secrets.
        facts: What is known of the run: `workflow`, `revision`, `run`, `node`, `requester`, `why`, and
            what people said before: `note`, `edited`.
    """
    card: dict[str, Any] = {
        "title": title,
        **facts,
        "agent": {"name": agent.name, "version": agent.version, "does": agent.summary},
        "inputs": dict(inputs),
        "plan": None,
        "undo": "",
    }
    if plan is not None:
        card["undo"] = plan.undo
        card["plan"] = {
            "summary": plan.summary,
            "targets": list(plan.targets),
            "changes": [
                {"target": change.target, "action": change.action, "detail": change.detail}
                for change in plan.changes
            ],
            "diff": plan.diff,
        }
    return card


def joined_card(cards: Sequence[Mapping[str, Any]], *, title: str, node: str) -> dict[str, Any]:
    """Make one card of the cards of all items of a node."""
    first = cards[0]
    plans = [card["plan"] for card in cards if card["plan"] is not None]
    plan: dict[str, Any] = {
        "summary": f"{len(cards)} items: {'; '.join(plan['summary'] for plan in plans)}",
        "targets": list(dict.fromkeys(target for plan in plans for target in plan["targets"])),
        "changes": [change for plan in plans for change in plan["changes"]],
        "diff": "".join(_ended(plan["diff"]) for plan in plans if plan["diff"]),
    }
    return {
        **first,
        "title": title,
        "node": node,
        "inputs": {card["node"]: card["inputs"] for card in cards},
        "plan": plan if plans else None,
        "undo": first["undo"] if all(card["undo"] for card in cards) else "",
    }


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


def markdown_of(card: Mapping[str, Any]) -> str:
    """Write a card as markdown; what comes from outside stands in code, so it stays text."""
    agent, plan = card["agent"], card["plan"]
    lines = [f"### {_code(card['title'])}", ""]
    if plan is not None:
        lines += [_code(plan["summary"]), ""]
        changes = plan["changes"]
        lines += [f"- {_code(c['action'])} {_code(c['target'])} {_code(c['detail'])}" for c in changes]
    lines += [
        f"- **Node** {_code(card['node'])} of {_code(card['workflow'])}, revision {card['revision']}",
        f"- **Agent** {_code(agent['name'])} {_code(agent['version'])}: {_code(agent['does'])}",
        f"- **Asked by** {_code(card['requester'])}",
        f"- **Why** {_code(card['why'])}",
        f"- **Undo** {_code(card['undo']) if card['undo'] else 'cannot be undone'}",
    ]
    if plan is not None and plan["targets"]:
        lines.append(f"- **Where** {', '.join(_code(target) for target in plan['targets'])}")
    lines += _said_before(card)
    if plan is None:
        return "\n".join([*lines, "", "Inputs:", *_listed(card["inputs"])])
    return "\n".join([*lines, "", _fenced(plan["diff"], "diff")] if plan["diff"] else lines)


def _said_before(card: Mapping[str, Any]) -> Iterator[str]:
    """Tell what has happened to this since it was asked first."""
    if note := card.get("note"):
        yield f"- **Sent back** by {_code(note['person'])}: {_code(note['text'])}"
    if edited := card.get("edited"):
        for name, value in edited["inputs"].items():
            yield (
                f"- **Edited** by {_code(edited['person'])}: {_code(name)} from {_code(value['before'])}"
                f" to {_code(value['after'])}"
            )
    for change in card.get("changed") or ():
        if change["what"] == "plan.diff":  # the new one is shown below
            yield "- **Changed** the diff"
        else:
            was, now = _code(change["before"]) or "nothing", _code(change["after"]) or "nothing"
            yield f"- **Changed** {_code(change['what'])} from {was} to {now}"
    for past in (card.get("history") or ())[:1]:  # the console shows all
        by = ", ".join(_code(person) for person in past["approved_by"])
        yield f"- **Before** {past['at'][:16]} {_code(past['state'])}, approved by {by}"


def _listed(inputs: Mapping[str, Any]) -> list[str]:
    return [f"- {_code(name)}: {_code(value)}" for name, value in inputs.items()]


def _code(value: Any) -> str:
    """Show a text as it is, on one line."""
    flat = " ".join(visible(str(value)).split()).replace("`", "'")
    return f"`{flat}`" if flat else ""


def _fenced(text: str, kind: str) -> str:
    short = text if len(text) <= _LONGEST_DIFF else f"{text[:_LONGEST_DIFF]}\n… {len(text):,} characters"
    shown, longest = visible(short), 3
    while "`" * longest in shown:
        longest += 1
    return f"{'`' * longest}{kind}\n{shown}\n{'`' * longest}"
