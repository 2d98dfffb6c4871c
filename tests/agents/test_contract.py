from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from penstock import registry
from penstock.contracts import Agent
from penstock.settings import PluginSettings
from penstock.testing import check_contract

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def _shipped() -> registry.Registry:
    """Build the registry of the agents that this checkout declares."""
    declared = tomllib.loads(_PROJECT.read_text())["project"]["entry-points"][registry.GROUP]
    return registry.build(
        PluginSettings(), [EntryPoint(name, value, registry.GROUP) for name, value in declared.items()]
    )


def test_shipped_agents_are_all_usable() -> None:
    found = _shipped()

    assert found.refused == ()
    assert {"security-scanner", "notifier"} <= set(found.agents)


@pytest.mark.parametrize("agent", _shipped(), ids=lambda agent: agent.name)
def test_agent_holds_the_contract(agent: Agent) -> None:
    check_contract(agent)
