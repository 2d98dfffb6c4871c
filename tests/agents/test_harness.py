from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from penstock.contracts import AgentContext, AgentType, Change, Plan, Risk, agent
from penstock.errors import InputInvalid, NodeTimedOut, NotFound, OutputInvalid
from penstock.testing import AgentHarness, check_contract, check_dry_run


class Work(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "/a"}]})

    path: str = Field(default="", description="Where to write.")
    mode: str = Field(default="write", description="What to do.")


class Done(BaseModel):
    count: int = Field(ge=0, description="How much was done.")


@agent(
    name="worker",
    type=AgentType.MODIFICATION,
    risk=Risk.APPROVAL_REQUIRED,
    capabilities=("writing",),
    timeout_s=5,
)
async def work(ctx: AgentContext, params: Work) -> Done:
    """Write a file."""
    if params.mode == "hang":
        await asyncio.sleep(60)
    if params.mode == "lie":
        return Done.model_construct(count=-1)
    ctx.logger.info("worked", block=await ctx.block("token"), workspace=str(ctx.workspace))
    await ctx.artifact("note", "text", description="A note.")
    if params.mode == "write" and (not ctx.dry_run or params.path.endswith("rude")):
        await asyncio.to_thread(Path(params.path).write_text, "x")
    return Done(count=1)


@work.plan
async def plan(ctx: AgentContext, params: Work) -> Plan:
    """Tell what would be written."""
    return Plan(f"Write for {ctx.node_id}", targets=(params.path,), changes=(Change(params.path, "create"),))


@work.undo
async def undo(ctx: AgentContext, params: Work, output: Done) -> None:
    """Remove it."""
    ctx.logger.info("undone", count=output.count)
    await asyncio.to_thread(Path(params.path).unlink)


class Mute(BaseModel):
    value: str = Field(default="", description="no period")


@agent(name="mute", type=AgentType.EXECUTION, risk=Risk.AUTO, egress=("https://a/b",))
async def mute(ctx: AgentContext, params: Mute) -> Mute:
    """Say nothing"""  # noqa: D415  a fault that the check must find
    ctx.logger.debug("quiet")
    return params


def _harness(tmp_path: Path, **options: float) -> AgentHarness:
    return AgentHarness(work, workspace=tmp_path, blocks={"token": "b"}, **options)  # type: ignore[arg-type]


async def test_harness_collects_logs_artifacts_plan_and_undo(tmp_path: Path) -> None:
    harness = _harness(tmp_path)
    file = tmp_path / "file"

    output = await harness.run({"path": str(file)})
    planned = await harness.plan({"path": str(file)})
    await harness.undo({"path": str(file)}, output)

    assert (output, planned.targets) == (Done(count=1), (str(file),))
    assert [line.event for line in harness.logs] == ["worked", "undone"]
    assert [artifact.name for artifact in harness.artifacts] == ["note"]
    assert os.listdir(tmp_path) == []  # noqa: PTH208  names are enough


async def test_harness_refuses_wrong_inputs_without_their_values(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="path: Input should be a valid string") as caught:
        await _harness(tmp_path).run({"path": 12345678})

    assert "12345678" not in str(caught.value)


async def test_harness_refuses_wrong_output(tmp_path: Path) -> None:
    with pytest.raises(OutputInvalid, match="count"):
        await _harness(tmp_path).run({"mode": "lie"})


async def test_harness_stops_at_the_time_limit(tmp_path: Path) -> None:
    with pytest.raises(NodeTimedOut, match=r"longer than 0\.05 s"):
        await _harness(tmp_path, timeout_s=0.05).run({"mode": "hang"})


async def test_harness_has_only_the_blocks_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no block 'token'"):
        await AgentHarness(work, workspace=tmp_path).run({"mode": "none"})


async def test_harness_without_plan_or_undo_says_so() -> None:
    harness = AgentHarness(mute)

    with pytest.raises(NotFound, match="no plan"):
        await harness.plan({})
    with pytest.raises(NotFound, match="no undo"):
        await harness.undo({}, Mute())


def test_contract_holds_for_a_good_agent() -> None:
    check_contract(work)


def test_contract_lists_every_fault_of_a_bad_agent() -> None:
    with pytest.raises(AssertionError) as caught:
        check_contract(mute)

    for fault in ("docstring", "capability", "needs a plan", "egress", "Mute.value", "no example"):
        assert fault in str(caught.value)


async def test_dry_run_check_passes_a_polite_agent(tmp_path: Path) -> None:
    await check_dry_run(_harness(tmp_path), {"path": str(tmp_path / "file")}, tmp_path)


async def test_dry_run_check_names_what_changed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a dry run changed rude"):
        await check_dry_run(_harness(tmp_path), {"path": str(tmp_path / "rude")}, tmp_path)
