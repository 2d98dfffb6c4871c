from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint, PathDistribution
from pathlib import Path

import pytest

from penstock import registry
from penstock.errors import UnknownAgentError
from penstock.settings import PluginSettings

Make = Callable[..., EntryPoint]

_AGENT = '''
from pydantic import BaseModel, Field
from penstock.contracts import AgentContext, AgentType, Risk, agent

class Input(BaseModel):
    name: str = Field(description="A name.")

@agent(name="{name}", type=AgentType.ANALYSIS, risk=Risk.AUTO, api={api})
async def run(ctx: AgentContext, params: Input) -> Input:
    """Do nothing."""
    return params
'''


@pytest.fixture
def point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Give a maker of entry points, each with a module and a distribution of its own."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def make(
        name: str,
        *,
        source: str = "",
        owner: str = "third",
        claim: str = "",
        api: int = 1,
        attribute: str = "run",
    ) -> EntryPoint:
        module = f"plugin_{tmp_path.name.replace('-', '_')}_{owner}_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source or _AGENT.format(name=name, api=api))
        found = EntryPoint(claim or name, f"{module}:{attribute}", registry.GROUP)
        vars(found)["dist"] = _distribution(tmp_path, owner)
        return found

    return make


def _distribution(folder: Path, name: str) -> Distribution:
    info = folder / f"{name}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    return PathDistribution(info)


def _reasons(found: registry.Registry) -> dict[tuple[str, str], str]:
    return {(item.name, item.distribution): item.reason for item in found.refused}


def test_build_gives_agents_by_name(point: Make) -> None:
    found = registry.build(PluginSettings(), [point("greeter"), point("builder")])

    assert list(found.agents) == ["builder", "greeter"]
    assert found.get("greeter").name == "greeter"
    assert (len(found), "greeter" in found, found.refused) == (2, True, ())
    assert [agent.name for agent in found] == ["builder", "greeter"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "raise RuntimeError('boom')"}, "failed: RuntimeError: boom"),
        ({"source": "import no_such_module"}, "failed: ModuleNotFoundError"),
        ({"source": "raise SystemExit(1)"}, "failed: SystemExit"),
        ({"source": "run = 1"}, "of type int, not an agent"),
        ({"source": "x = 1"}, "failed: AttributeError"),
        ({"claim": "other"}, "is the agent 'bad', but its entry point says 'other'"),
        ({"api": 2}, "wants version 2 of the plugin API"),
        ({"source": _AGENT.replace('"""Do nothing."""', "").format(name="bad", api=1)}, "needs a docstring"),
    ],
)
def test_build_refuses_a_bad_plugin_and_keeps_the_others(
    changes: dict[str, str], reason: str, point: Make
) -> None:
    found = registry.build(PluginSettings(), [point("bad", **changes), point("good")])

    assert list(found.agents) == ["good"]
    assert reason in found.refused[0].reason
    assert found.refused[0].distribution == "third"


def test_build_lets_our_own_agent_win_its_name(point: Make) -> None:
    ours, theirs = point("patcher", owner="penstock"), point("patcher", owner="third")

    found = registry.build(PluginSettings(), [theirs, ours])

    assert found.get("patcher").module == ours.module
    assert _reasons(found) == {("patcher", "third"): "the name belongs to penstock"}


def test_build_refuses_both_third_parties_that_claim_a_name(point: Make) -> None:
    found = registry.build(PluginSettings(), [point("a", owner="one"), point("a", owner="two")])

    assert not found.agents
    assert "claimed more than once, by one and two" in found.refused[0].reason
    assert {item.distribution for item in found.refused} == {"one", "two"}


def test_build_never_imports_what_settings_bar(point: Make) -> None:
    barred = point("barred", source="raise RuntimeError('imported')")
    settings = PluginSettings(allow=frozenset({"good", "barred"}), deny=frozenset({"barred"}))

    found = registry.build(settings, [barred, point("good"), point("other")])

    assert list(found.agents) == ["good"]
    assert "DENY" in _reasons(found)["barred", "third"]
    assert "ALLOW" in _reasons(found)["other", "third"]
    assert barred.module not in sys.modules


def test_get_unknown_suggests_a_name(point: Make) -> None:
    found = registry.build(PluginSettings(), [point("code-reviewer")])

    with pytest.raises(UnknownAgentError, match="did you mean 'code-reviewer'"):
        found.get("code-reviwer")


def test_get_unknown_lists_names_when_none_is_close(point: Make) -> None:
    found = registry.build(PluginSettings(), [point("code-reviewer")])

    with pytest.raises(UnknownAgentError, match="known: code-reviewer"):
        found.get("zzz")


def test_get_refused_tells_the_reason(point: Make) -> None:
    found = registry.build(PluginSettings(), [point("bad", source="raise ValueError('no')")])

    with pytest.raises(UnknownAgentError, match=r"was refused: .*ValueError: no \(third\)"):
        found.get("bad")


def test_registry_is_frozen(point: Make) -> None:
    found = registry.build(PluginSettings(), [point("a")])

    with pytest.raises(TypeError):
        found.agents["b"] = found.agents["a"]  # type: ignore[index]


def test_build_without_points_reads_the_installed_ones() -> None:
    assert isinstance(registry.build(PluginSettings()), registry.Registry)


def test_entry_point_without_distribution_is_named_unknown() -> None:
    found = registry.build(PluginSettings(), [EntryPoint("a", "no_such_module:run", registry.GROUP)])

    assert found.refused[0].distribution == "unknown distribution"
