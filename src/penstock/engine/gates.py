"""What a gated node asks for: the plan, the card, the terms and the digest that a decision binds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from penstock.approvals.card import joined_card, make_card
from penstock.approvals.digest import digest_of_all, semantic_digest
from penstock.approvals.gate import Gate, GateRequest, SaidBefore
from penstock.approvals.terms import Clause, Terms
from penstock.contracts import Agent, Plan, Risk
from penstock.engine import failures
from penstock.engine.calls import parse_inputs
from penstock.engine.facts import Engine, RunFacts, Unit
from penstock.engine.scheduler import NodeResult
from penstock.workflow import CheckedNode

__all__ = ["Proposal", "joined", "may_wait", "params_of", "propose", "said_before"]


_NOBODY = frozenset({"", "unknown"})
"""Requesters of runs that were started past the gateway and the command line."""


@dataclass(frozen=True)
class Proposal:
    """What would be done, and the request for it."""

    plan: Plan | None
    request: GateRequest

    @property
    def gated(self) -> bool:
        """Whether somebody has to allow it."""
        return bool(self.request.terms.clauses)


def may_wait(engine: Engine, run: RunFacts, agent: Agent, node: CheckedNode) -> bool:
    """Say whether a node may need a grant; with a policy its targets and the time decide."""
    return (
        agent.risk is Risk.APPROVAL_REQUIRED
        or node.spec.approval is not None
        or engine.rules.current().policies.may_concern(
            agent=agent.name, type_=agent.type.value, workflow=run.workflow.workflow.name
        )
    )


async def said_before(
    engine: Engine, run: RunFacts, gate: Gate, unit: Unit, agent: Agent, *, done: bool = False
) -> SaidBefore | None:
    """Give what people have said at a unit's gate; None when it has none.

    Args:
        done: Up to when the unit ran.
    """
    if not done and not may_wait(engine, run, agent, unit.node):
        return None
    said = await gate.before(*unit.key, done=done)
    approval = unit.node.spec.approval
    once = bool(unit.item) and approval is not None and approval.per == "node"
    return await gate.before(unit.node.id, "", done=done) if once and said.nothing else said


def params_of(
    run: RunFacts,
    unit: Unit,
    agent: Agent,
    results: Mapping[str, NodeResult],
    before: SaidBefore | None,
) -> BaseModel:
    """Render a unit's inputs and put in what approvers have changed."""
    inputs = unit.node.render_inputs(run.scope(results, unit, before))
    return parse_inputs(agent, inputs if before is None else {**inputs, **before.edits})


async def propose(
    engine: Engine,
    run: RunFacts,
    unit: Unit,
    agent: Agent,
    params: BaseModel,
    *,
    results: Mapping[str, NodeResult],
    before: SaidBefore,
) -> Proposal:
    """Have the agent plan, without side effects, and make the request that binds the plan.

    Args:
        before: What people have said at this gate; its edits are in the parameters already.
    """
    workflow, node = run.workflow.workflow.name, unit.node
    plan = None
    if agent.planner is not None:
        limit = failures.time_limit(node.timeout_s or agent.timeout_s)
        async with engine.workspace(unit.label) as workspace, limit:
            plan = await agent.planner(run.context(engine, unit, workspace, attempt=1), params)
    inputs, scope = params.model_dump(mode="json"), run.scope(results, unit, before)
    title = node.render_title(scope) or f"{agent.name}: {unit.label} of {workflow}"
    targets = tuple(plan.targets if plan else ())
    terms = _terms(engine, run, node, agent, targets=targets, before=before)
    facts = {
        "run": run.name,
        "run_id": str(run.id),
        "workflow": workflow,
        "revision": run.revision,
        "node": unit.label,
        "requester": run.requester,
        "why": "; ".join(dict.fromkeys(clause.why for clause in terms.clauses if clause.why)),
        "round": before.round,
        "note": None if before.note is None else {"person": before.note_by, "text": before.note},
        "edited": _edited(before, agent, node.render_inputs(scope)) if before.edits else None,
    }
    card = make_card(agent, inputs, plan, title=title, facts=facts)
    request = GateRequest(
        node_id=node.id,
        item=unit.item,
        agent=agent.name,
        digest=semantic_digest(agent, inputs, plan, workflow=workflow, revision=run.revision),
        title=engine.redactor.text(title),
        card=engine.redactor.data(card),
        targets=tuple(engine.redactor.text(target) for target in targets),
        terms=terms,
        edits=before.edits,
    )
    return Proposal(plan, request)


def joined(proposals: Mapping[str, Proposal], unit: Unit) -> GateRequest:
    """Make one request of those of all items of a node; each item is bound by its own digest."""
    requests = [proposal.request for proposal in proposals.values()]
    first = requests[0]
    clauses = tuple(dict.fromkeys(clause for one in requests for clause in one.terms.clauses))
    digests = {key: proposal.request.digest for key, proposal in proposals.items()}
    title = f"{first.title} and {len(requests) - 1} more" if len(requests) > 1 else first.title
    return GateRequest(
        node_id=unit.node.id,
        agent=first.agent,
        digest=digest_of_all(digests),
        title=title,
        card=joined_card([one.card for one in requests], title=title, node=unit.label) | {"digests": digests},
        targets=tuple(dict.fromkeys(target for one in requests for target in one.targets)),
        terms=replace(first.terms, clauses=clauses, editable={}),
    )


def _terms(
    engine: Engine,
    run: RunFacts,
    node: CheckedNode,
    agent: Agent,
    *,
    targets: Sequence[str],
    before: SaidBefore,
) -> Terms:
    rules, approval = engine.rules.current(), node.spec.approval
    added = rules.policies.clauses(
        agent=agent.name,
        type_=agent.type.value,
        workflow=run.workflow.workflow.name,
        targets=targets,
        now=before.now,
    )
    terms = Terms(
        clauses=tuple(_made_sure(clause, run.requester) for clause in (*_own_clauses(agent, node), *added)),
        requester=run.requester,
        last_editor=run.editor,
        policy=rules.version,
    )
    if approval is None:
        return terms
    escalate = approval.escalate
    return replace(
        terms,
        timeout_s=approval.timeout,
        on_timeout=approval.on_timeout,
        remind_s=tuple(approval.remind),
        escalate_after_s=escalate.after if escalate else None,
        escalate_to=tuple(escalate.to) if escalate else (),
        editable=dict(approval.editable),
        valid_s=approval.valid,
    )


def _made_sure(clause: Clause, requester: str) -> Clause:
    """Ask for one person more where the requester may not approve and nobody knows who that is.

    Of so many people one at most has asked for it.
    """
    if "requester" not in clause.forbid or requester not in _NOBODY:
        return clause
    why = "; ".join(text for text in (clause.why, "nobody knows who asked, so one more must approve") if text)
    return replace(clause, count=clause.count + 1, why=why)


def _own_clauses(agent: Agent, node: CheckedNode) -> Iterator[Clause]:
    """Give what the agent's risk and the workflow ask for, without any policy."""
    approval = node.spec.approval
    by_risk = f"{agent.name} changes things and always needs an approval"
    if approval is not None:
        by_workflow = "the workflow asks for an approval here"
        yield Clause(
            source="workflow",
            why=by_risk if agent.risk is Risk.APPROVAL_REQUIRED else by_workflow,
            count=approval.require.count,
            of=tuple(approval.require.from_),
            distinct_groups=approval.require.distinct_groups,
            forbid=tuple(approval.forbid),
        )
    elif agent.risk is Risk.APPROVAL_REQUIRED:
        yield Clause(source="risk", why=by_risk)


def _edited(before: SaidBefore, agent: Agent, rendered: Mapping[str, Any]) -> dict[str, Any]:
    """Tell which inputs an approver has changed, from what the workflow gives or the agent's model has."""
    given = dict(rendered)
    for name, field in agent.input_model.model_fields.items():
        if not field.is_required():
            given.setdefault(name, to_jsonable_python(field.get_default(call_default_factory=True)))
    inputs = {name: {"before": given.get(name), "after": value} for name, value in before.edits.items()}
    return {"person": before.edited_by, "inputs": inputs}
