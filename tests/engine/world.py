"""A world for agents to live in: what becomes of every unit, and a log of what was done."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field

from penstock.contracts import Agent, AgentContext, AgentFailed, AgentRetry, AgentType, Plan, Risk, agent
from penstock.registry import Registry
from penstock.workflow import AgentInfo, Catalog, CheckedWorkflow, Workflow, check_workflow, parse_workflow
from penstock.workflow.source import read_source

Does = Literal["succeed", "fail", "crash", "flaky", "stubborn", "cut_line", "hang"]
Gate = Literal["approved", "late", "open", "rejected"]
Undo = Literal["succeed", "flaky", "fail", "hang"]


@dataclass(frozen=True)
class Fate:
    """What becomes of one unit, whichever worker runs it."""

    does: Does = "succeed"
    """`flaky` asks for one more try, `stubborn` for ever more; `cut_line` loses its connection each time;
    `hang` never ends."""
    gate: Gate = "approved"
    """`late` is approved after it was asked for, `open` never; another workflow's run ends likewise."""
    confirmed: bool = True
    """Whether the check afterwards is content."""
    undo: Undo = "succeed"


@dataclass
class World:
    """All that is outside of the engine: what agents meet, and what they have done."""

    fates: Mapping[str, Fate] = field(default_factory=dict[str, Fate])
    """By label, `scan` or `scan[3]`; whatever is not named succeeds."""
    pauses: Sequence[int] = (1, 0, 2)
    """How often others go first, over and over again."""
    log: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What happened, in order: `began`, `did`, `checked`, `planned`, `undid`, and the unit's label."""
    healed: bool = False
    """Everything succeeds from now on."""
    tries: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def __post_init__(self) -> None:
        self.registry = Registry(agents_of(self))
        self._pauses = itertools.cycle(self.pauses)
        self.at_work = asyncio.Event()
        """Set as soon as an agent has begun."""

    def fate(self, label: str) -> Fate:
        """Say what becomes of a unit."""
        return Fate() if self.healed else self.fates.get(label, Fate())

    def units(self, what: str, since: int = 0) -> list[str]:
        """List the units that something happened to, in order."""
        return [label for happened, label in self.log[since:] if happened == what]

    async def pause(self) -> None:
        """Let others go first."""
        for _ in range(next(self._pauses)):
            await asyncio.sleep(0)

    async def work(self, label: str, params: Work) -> Done:
        """Be an agent."""
        self.log.append(("began", label))
        self.at_work.set()
        await self.pause()
        self.tries["work", label] += 1
        does = self.fate(label).does
        if does in {"fail", "crash"}:
            raise AgentFailed("it failed") if does == "fail" else ValueError("a bug")
        if does == "hang":
            await asyncio.Event().wait()
        if does == "cut_line":
            raise ConnectionResetError
        if does == "stubborn" or (does == "flaky" and self.tries["work", label] == 1):
            raise AgentRetry("again, please")
        self.log.append(("did", label))
        return Done(item=params.item, note=params.note)

    async def undo(self, label: str, params: Work, output: Done) -> None:
        """Be an agent's undo, which wants to know what was done."""
        if params.model_dump() != output.model_dump():
            raise AgentFailed(f"it was to do {params}, and did {output}")
        await self.pause()
        self.tries["undo", label] += 1
        way = self.fate(label).undo
        if way == "hang":
            await asyncio.Event().wait()
        if way == "fail":
            raise AgentFailed("it is stuck")
        if way == "flaky" and self.tries["undo", label] == 1:
            raise AgentRetry("again, please")
        self.log.append(("undid", label))

    async def check(self, label: str) -> None:
        """Be the agent that checks a change."""
        self.log.append(("checked", label))
        await self.pause()
        if not self.fate(label).confirmed:
            raise AgentFailed("it does not look right")


class Work(BaseModel):
    """What to do."""

    item: int | None = Field(default=None, description="The item.")
    note: str = Field(default="", description="What is known of others.")


class Done(BaseModel):
    """What was done."""

    item: int | None = Field(description="The item.")
    note: str = Field(description="What was known of others.")


def agents_of(world: World) -> dict[str, Agent]:
    """Make the agents of a world.

    `reader` and `checker` change nothing, `writer` does, `steady` may be repeated, `guarded` needs
    an approval.
    """
    changes, reads = AgentType.MODIFICATION, AgentType.ANALYSIS
    made = [
        _agent(world, "reader", reads, Risk.AUTO),
        _agent(world, "writer", changes, Risk.AUTO),
        _agent(world, "steady", changes, Risk.AUTO, idempotent=True),
        _agent(world, "guarded", changes, Risk.APPROVAL_REQUIRED),
        _checker(world),
    ]
    return {one.name: one for one in made}


def _agent(world: World, name: str, kind: AgentType, risk: Risk, *, idempotent: bool = False) -> Agent:
    @agent(name=name, type=kind, risk=risk, idempotent=idempotent)
    async def work(ctx: AgentContext, params: Work) -> Done:
        """Do what the world has in store."""
        return await world.work(_label(ctx), params)

    async def plan(ctx: AgentContext, params: Work) -> Plan:
        world.log.append(("planned", _label(ctx)))
        await world.pause()
        return Plan(f"change {params.item}", targets=[_label(ctx)])

    async def undo(ctx: AgentContext, params: Work, output: Done) -> None:
        await world.undo(_label(ctx), params, output)

    if kind is not AgentType.ANALYSIS:
        work.plan(plan)
        work.undo(undo)
    return work


def _checker(world: World) -> Agent:
    @agent(name="checker", type=AgentType.ANALYSIS, risk=Risk.AUTO)
    async def check(ctx: AgentContext, params: Work) -> Done:
        """Look at what was done."""
        await world.check(_label(ctx))
        return Done(item=params.item, note=params.note)

    return check


def _label(ctx: AgentContext) -> str:
    node_id, _, item = ctx.node_id.partition("-")
    return f"{node_id}[{item}]" if item else node_id


CHILD = "other"
"""Name of the workflow that nodes may run."""
_HEAD = {"apiVersion": "penstock/v1", "kind": "Workflow"}
_OTHER = {**_HEAD, "metadata": {"name": CHILD}, "nodes": [{"id": "only", "agent": "reader"}]}
_NO_FILE = read_source("{}", file="sample.yaml")
CATALOG = Catalog(
    agents={one.name: AgentInfo.of(one) for one in agents_of(World()).values()},
    workflows={CHILD: parse_workflow(json.dumps(_OTHER), file="other.yaml")},
)


Nodes = Sequence[Mapping[str, Any]]


def checked(
    nodes: Nodes, *, branches: Mapping[str, Nodes] | None = None, inputs: Mapping[str, Any] | None = None
) -> CheckedWorkflow:
    """Check a workflow of some nodes; an agent's name may be left out, and means `reader`.

    Raises:
        SpecError: It is wrong.
    """
    data = {**_HEAD, "metadata": {"name": "sample"}, "nodes": _whole(nodes), "inputs": inputs or {}}
    data["error_branches"] = {name: _whole(inside) for name, inside in (branches or {}).items()}
    # Not by way of a text: parsing YAML takes longer than all the rest of a test.
    return check_workflow(Workflow.model_validate(data).read_from(_NO_FILE), CATALOG)


def _whole(nodes: Nodes) -> list[Mapping[str, Any]]:
    return [node if "workflow" in node else {"agent": "reader", **node} for node in nodes]
