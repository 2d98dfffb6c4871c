"""The card that an approver sees, the same one in every place."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from penstock.contracts import Agent, Plan

__all__ = ["make_card", "markdown_of"]

_LONGEST_DIFF = 20_000
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of characters that nobody sees, or that change how others are seen."""


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
        facts: What is known of the run: `workflow`, `revision`, `run`, `node`, `requester`, `why`.
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


def markdown_of(card: Mapping[str, Any]) -> str:
    """Write a card as markdown; what comes from outside stands in code, so it stays text."""
    agent = card["agent"]
    lines = [
        f"### {_code(card['title'])}",
        "",
        f"- **Node** {_code(card['node'])} of {_code(card['workflow'])}, revision {card['revision']}",
        f"- **Agent** {_code(agent['name'])} {_code(agent['version'])}: {_code(agent['does'])}",
        f"- **Asked by** {_code(card['requester'])}",
        f"- **Why** {card['why']}",
        f"- **Undo** {_code(card['undo']) if card['undo'] else 'cannot be undone'}",
    ]
    plan = card["plan"]
    if plan is None:
        return "\n".join([*lines, "", "Inputs:", *_listed(card["inputs"])])
    if plan["targets"]:
        lines.append(f"- **Where** {', '.join(_code(target) for target in plan['targets'])}")
    lines += ["", _code(plan["summary"]), ""]
    lines += [f"- {_code(c['action'])} {_code(c['target'])} {_code(c['detail'])}" for c in plan["changes"]]
    if plan["diff"]:
        lines += ["", _fenced(plan["diff"], "diff")]
    return "\n".join(lines)


def _listed(inputs: Mapping[str, Any]) -> list[str]:
    return [f"- {_code(name)}: {_code(value)}" for name, value in inputs.items()]


def _code(value: Any) -> str:
    """Show a text as it is, on one line."""
    flat = " ".join(_visible(str(value)).split()).replace("`", "'")
    return f"`{flat}`" if flat else ""


def _fenced(text: str, kind: str) -> str:
    short = text if len(text) <= _LONGEST_DIFF else f"{text[:_LONGEST_DIFF]}\n… {len(text):,} characters"
    shown, longest = _visible(short), 3
    while "`" * longest in shown:
        longest += 1
    return f"{'`' * longest}{kind}\n{shown}\n{'`' * longest}"


def _visible(text: str) -> str:
    """Write out what would not be seen, such as marks that turn the direction of a line."""
    lines = text.replace("\r\n", "\n")
    return "".join(_named(char) if unicodedata.category(char) in _UNSEEN else char for char in lines)


def _named(char: str) -> str:
    return char if char in "\n\t" else f"\\u{ord(char):04x}"
