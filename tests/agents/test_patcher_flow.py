"""The shipped workflow that uses the patcher is right in every place where it names an agent."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from penstock import registry
from penstock.settings import PluginSettings
from penstock.workflow import AgentInfo, Catalog, check_workflow, parse_workflow

ROOT = Path(__file__).parents[2]


def test_fix_vulnerability_is_a_workflow_with_a_gate_and_an_undo() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][registry.GROUP]
    agents = registry.build(
        PluginSettings(), [EntryPoint(name, value, registry.GROUP) for name, value in declared.items()]
    )
    file = ROOT / "flows" / "library" / "fix-vulnerability.yaml"

    checked = check_workflow(
        parse_workflow(file.read_text(), file=file.name),
        Catalog({name: AgentInfo.of(agent) for name, agent in agents.agents.items()}),
    )

    apply = checked.nodes["apply"].spec
    assert apply.approval is not None
    assert (apply.agent, apply.undo, apply.approval.on_timeout) == ("patcher", "automatic", "reject")
