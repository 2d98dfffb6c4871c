"""Run an agent without a server, and check what every agent must hold.

```python
async def test_greeter_greets(tmp_path: Path) -> None:
    harness = AgentHarness(greet, workspace=tmp_path)

    output = await harness.run({"name": "Ada"})

    assert output.text == "Hello, Ada"
```
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ValidationError

from penstock import sandbox as sandboxes
from penstock.contracts import SLOT_KEY, Agent, AgentContext, AgentType, Plan, Risk, Sandbox, Slot
from penstock.errors import InputInvalid, NodeTimedOut, NotFound, OutputInvalid
from penstock.settings import load_settings

__all__ = ["AgentHarness", "Artifact", "LogLine", "check_contract", "check_dry_run"]

_SUMMARY_LENGTH = 100


@dataclass(frozen=True)
class LogLine:
    """One thing an agent logged."""

    level: str
    event: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Artifact:
    """One document an agent kept."""

    name: str
    data: str
    media_type: str
    description: str


@dataclass
class _Recorder:
    """Stands in for the engine: a logger and the services behind a context."""

    blocks: Mapping[str, Any]
    backend: Sandbox | None
    logs: list[LogLine] = field(default_factory=list[LogLine])
    artifacts: list[Artifact] = field(default_factory=list[Artifact])

    def debug(self, event: str, **facts: Any) -> None:
        self.logs.append(LogLine("debug", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.logs.append(LogLine("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.logs.append(LogLine("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.logs.append(LogLine("error", event, facts))

    async def load_block(self, name: str) -> Any:
        if name not in self.blocks:
            raise NotFound(f"the node has no block {name!r}")
        return self.blocks[name]

    def sandbox(self) -> Sandbox:
        if self.backend is None:
            self.backend = sandboxes.select(load_settings())
        return self.backend

    async def save_artifact(self, name: str, data: str, media_type: str, description: str) -> None:
        self.artifacts.append(Artifact(name, data, media_type, description))


class AgentHarness:
    """Runs one agent as the engine would: validated input, a time limit, validated output.

    Args:
        workspace: Folder in which each attempt gets an empty folder; unset means a temporary one.
        blocks: What `ctx.block(name)` gives, by name.
        sandbox: What `ctx.sandbox()` gives; unset means the machine's own backend.
        timeout_s: Limit for one attempt, in seconds; unset means the agent's own.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        workspace: Path | None = None,
        blocks: Mapping[str, Any] | None = None,
        sandbox: Sandbox | None = None,
        timeout_s: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self.agent = agent
        self.workspace = workspace
        self.timeout_s = timeout_s or agent.timeout_s
        self.dry_run = dry_run
        self.attempts = 0
        self._recorder = _Recorder(blocks or {}, sandbox)

    @property
    def logs(self) -> list[LogLine]:
        """Everything logged so far."""
        return self._recorder.logs

    @property
    def artifacts(self) -> list[Artifact]:
        """Everything kept so far."""
        return self._recorder.artifacts

    def dry(self) -> AgentHarness:
        """Make a harness like this one whose runs are dry runs."""
        recorder = self._recorder
        return AgentHarness(
            self.agent,
            workspace=self.workspace,
            blocks=recorder.blocks,
            sandbox=recorder.backend,
            timeout_s=self.timeout_s,
            dry_run=True,
        )

    async def run(self, inputs: Mapping[str, Any] | BaseModel) -> Any:
        """Run the agent and return its validated output.

        Raises:
            InputInvalid: The inputs do not match the agent's model.
            NodeTimedOut: It ran longer than its limit.
            OutputInvalid: What it returned does not match its model.
        """
        params = self._params(inputs)
        with self._context() as ctx:
            output = await self._within(self.agent.run(ctx, params))
        return self._checked(output)

    async def plan(self, inputs: Mapping[str, Any] | BaseModel) -> Plan:
        """Let the agent plan.

        Raises:
            NotFound: It has no plan.
        """
        if self.agent.planner is None:
            raise NotFound(f"agent {self.agent.name!r} has no plan")
        params = self._params(inputs)
        with self._context() as ctx:
            return await self._within(self.agent.planner(ctx, params))

    async def undo(self, inputs: Mapping[str, Any] | BaseModel, output: BaseModel) -> None:
        """Undo a run.

        Raises:
            NotFound: It has no undo.
        """
        if self.agent.undoer is None:
            raise NotFound(f"agent {self.agent.name!r} has no undo")
        params = self._params(inputs)
        with self._context() as ctx:
            await self._within(self.agent.undoer(ctx, params, output))

    def _params(self, inputs: Mapping[str, Any] | BaseModel) -> BaseModel:
        values = inputs.model_dump() if isinstance(inputs, BaseModel) else dict(inputs)
        try:
            return self.agent.input_model.model_validate(values)
        except ValidationError as error:
            raise InputInvalid(f"agent {self.agent.name!r}: {_reasons(error)}") from None

    def _checked(self, output: BaseModel) -> BaseModel:
        try:
            return self.agent.output_model.model_validate_json(output.model_dump_json())
        except (ValidationError, AttributeError) as error:
            reason = _reasons(error) if isinstance(error, ValidationError) else "it is not a model"
            raise OutputInvalid(f"agent {self.agent.name!r}: output: {reason}") from None

    async def _within(self, work: Any) -> Any:
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise NodeTimedOut(f"agent {self.agent.name!r} ran longer than {self.timeout_s:g} s") from None

    @contextmanager
    def _context(self) -> Generator[AgentContext]:
        self.attempts += 1
        with tempfile.TemporaryDirectory(prefix="attempt-", dir=self.workspace) as folder:
            yield AgentContext(
                run_id="test-run",
                node_id=self.agent.name,
                attempt=self.attempts,
                dry_run=self.dry_run,
                workspace=Path(folder).resolve(),
                logger=self._recorder,
                services=self._recorder,
            )


def _reasons(error: ValidationError) -> str:
    """List what is wrong without the values, which may be secret or huge."""
    items = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in items)


def check_contract(agent: Agent) -> None:
    """Check what every agent must hold and tell every fault at once.

    Raises:
        AssertionError: Something is missing; the message lists it line by line.
    """
    faults = [
        *_manifest_faults(agent),
        *_model_faults("input", agent.input_model, "validation"),
        *_model_faults("output", agent.output_model, "serialization"),
        *_example_faults(agent),
    ]
    if faults:
        raise AssertionError("\n".join(f"agent {agent.name!r}: {fault}" for fault in faults))


def _manifest_faults(agent: Agent) -> Iterator[str]:
    if not agent.summary.endswith(".") or len(agent.summary) > _SUMMARY_LENGTH:
        yield f"the docstring's first line must end in a period and have at most {_SUMMARY_LENGTH} characters"
    if not agent.capabilities:
        yield "it names no capability"
    acts = agent.risk is Risk.APPROVAL_REQUIRED or agent.type is not AgentType.ANALYSIS
    if acts and agent.planner is None:
        yield "it changes something or needs approval, so it needs a plan"
    for host in agent.egress:
        if "/" in host:
            yield f"egress takes host names, not {host!r}"


def _model_faults(
    what: str, model: type[BaseModel], mode: Literal["validation", "serialization"]
) -> Iterator[str]:
    try:
        schema = model.model_json_schema(mode=mode)
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"the {what} model has no JSON schema: {error}"
        return
    for owner, part in ((model.__name__, schema), *schema.get("$defs", {}).items()):
        for name, entry in cast("dict[str, Any]", part.get("properties", {})).items():
            # A description that repeats the one of the type it refers to is left out of the schema.
            target = schema.get("$defs", {}).get(str(entry.get("$ref", "")).rpartition("/")[2], {})
            if not str(entry.get("description", target.get("description", ""))).endswith("."):
                yield f"the description of {owner}.{name} must be a sentence that ends in a period"
            slot = entry.get(SLOT_KEY)
            if slot is not None and slot not in set(Slot):
                yield f"{owner}.{name} has the unknown slot {slot!r}"


def _example_faults(agent: Agent) -> Iterator[str]:
    examples = agent.input_model.model_json_schema().get("examples")
    if not examples:
        yield "the input model has no example (model_config, json_schema_extra, examples)"
    for example in examples or ():
        try:
            agent.input_model.model_validate(example)
        except ValidationError as error:
            yield f"an example of the input model is not valid: {_reasons(error)}"


async def check_dry_run(harness: AgentHarness, inputs: Mapping[str, Any], folder: Path) -> None:
    """Check that a dry run changes nothing below a folder.

    Raises:
        AssertionError: The folder changed; the message names the files.
    """
    before = _contents(folder)
    await harness.dry().run(inputs)
    after = _contents(folder)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise AssertionError(f"agent {harness.agent.name!r}: a dry run changed {', '.join(changed)}")


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
