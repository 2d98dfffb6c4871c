"""What a gated node asks for, and the gate that asks people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel

from penstock.approvals.card import make_card
from penstock.approvals.digest import semantic_digest
from penstock.approvals.gate import GateRequest, Grant, Waiting
from penstock.contracts import Agent, Plan, Risk
from penstock.engine import failures
from penstock.engine.facts import Engine, RunFacts, Unit
from penstock.engine.scheduler import NodeResult
from penstock.errors import ApprovalError
from penstock.store.approvals import ApprovalRequest, latest_request, open_request, use_grant
from penstock.store.database import Database
from penstock.workflow import CheckedNode

__all__ = ["Proposal", "StoreGate", "needs_gate", "propose"]


@dataclass(frozen=True)
class Proposal:
    """What would be done, and the request for it."""

    plan: Plan | None
    request: GateRequest


def needs_gate(agent: Agent, node: CheckedNode) -> bool:
    """Say whether a node runs only with a grant."""
    return agent.risk is Risk.APPROVAL_REQUIRED or node.spec.approval is not None


async def propose(
    engine: Engine,
    run: RunFacts,
    unit: Unit,
    agent: Agent,
    params: BaseModel,
    *,
    results: Mapping[str, NodeResult],
) -> Proposal:
    """Have the agent plan, without side effects, and make the request that binds the plan."""
    workflow, node = run.workflow.workflow.name, unit.node
    plan = None
    if agent.planner is not None:
        limit = failures.time_limit(node.timeout_s or agent.timeout_s)
        async with engine.workspace(unit.label) as workspace, limit:
            plan = await agent.planner(run.context(engine, unit, workspace, attempt=1), params)
    inputs = params.model_dump(mode="json")
    title = node.render_title(run.scope(results, unit)) or f"{agent.name}: {unit.label} of {workflow}"
    approval = node.spec.approval
    by_risk = f"{agent.name} changes things and always needs an approval"
    facts = {
        "run": run.name,
        "run_id": str(run.id),
        "workflow": workflow,
        "revision": run.revision,
        "node": unit.label,
        "requester": run.requester,
        "why": by_risk if agent.risk is Risk.APPROVAL_REQUIRED else "the workflow asks for an approval here",
    }
    card = make_card(agent, inputs, plan, title=title, facts=facts)
    request = GateRequest(
        node_id=node.id,
        item=unit.item,
        agent=agent.name,
        digest=semantic_digest(agent, inputs, plan, workflow=workflow, revision=run.revision),
        title=engine.redactor.text(title),
        card=engine.redactor.data(card),
        required=approval.require.count if approval else 1,
        expires_in_s=approval.timeout if approval else None,
    )
    return Proposal(plan, request)


@dataclass(frozen=True)
class StoreGate:
    """The gate of one run: requests, decisions and grants are rows of the store."""

    database: Database
    run_id: UUID
    token: int
    epoch: int

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        """Give a grant that was made for exactly this; otherwise ask, or ask again."""
        found = await latest_request(self.database, self.run_id, request.node_id, request.item, self.epoch)
        if found is not None and found.state in {"rejected", "expired"}:
            raise ApprovalError(_refusal(found))
        if found is not None and found.state == "approved" and await self._used(found, request):
            return Grant(request)
        opened = await open_request(
            self.database,
            run_id=self.run_id,
            token=self.token,
            node_id=request.node_id,
            item=request.item,
            epoch=self.epoch,
            digest=request.digest,
            title=request.title,
            card=request.card,
            required=request.required,
            expires_in_s=request.expires_in_s,
        )
        given = sum(1 for decision in opened.decisions if decision.decision == "approve")
        return Waiting(str(opened.id), f"waits for approval {opened.id} ({given} of {opened.required})")

    async def _used(self, found: ApprovalRequest, request: GateRequest) -> bool:
        return await use_grant(
            self.database, found.id, digest=request.digest, epoch=self.epoch, token=self.token
        )


def _refusal(found: ApprovalRequest) -> str:
    if found.state == "expired":
        return f"{found.title}: nobody decided in time"
    last = found.decisions[-1] if found.decisions else None
    who = f" by {last.person}" if last else ""
    why = f": {last.comment}" if last and last.comment else ""
    return f"{found.title}: rejected{who}{why}"
