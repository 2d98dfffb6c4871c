"""Entry points become a frozen registry of agents; what cannot be used is refused by name.

An entry point of the group `penstock.agents` names an agent, and its object is what the `agent`
decorator returned. One bad plugin never takes the others down.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from penstock.contracts import API_VERSION, Agent
from penstock.errors import PluginContractError, PluginError, PluginVersionError, UnknownAgentError
from penstock.settings import PluginSettings

GROUP = "penstock.agents"
"""Entry-point group of agents."""

OWN = "penstock"
"""Our distribution; its agents win over a third party's claim to their name."""


@dataclass(frozen=True, order=True)
class Refusal:
    """An agent that is not loaded, and why."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True)
class Registry:
    """The agents that may be used, by name, and those that were refused."""

    agents: Mapping[str, Agent]
    refused: tuple[Refusal, ...] = ()

    def get(self, name: str) -> Agent:
        """Give one agent.

        Raises:
            UnknownAgentError: There is none of that name; the message says why, or what was meant.
        """
        if name in self.agents:
            return self.agents[name]
        reasons = [f"{item.reason} ({item.distribution})" for item in self.refused if item.name == name]
        if reasons:
            raise UnknownAgentError(f"agent {name!r} was refused: {'; '.join(reasons)}")
        close = difflib.get_close_matches(name, self.agents, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.agents) or 'none'}"
        raise UnknownAgentError(f"no agent is named {name!r}; {hint}")

    def __iter__(self) -> Iterator[Agent]:
        return iter(self.agents.values())

    def __len__(self) -> int:
        return len(self.agents)

    def __contains__(self, name: object) -> bool:
        return name in self.agents


def build(settings: PluginSettings, points: Iterable[EntryPoint] | None = None) -> Registry:
    """Import the agents that the settings let in and freeze them.

    Args:
        points: The entry points to use; unset means those of the installed distributions.
    """
    claims: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP) if points is None else points:
        rivals = claims.setdefault(point.name, [])
        if point not in rivals:
            rivals.append(point)
    agents: dict[str, Agent] = {}
    refused: list[Refusal] = []
    for name, rivals in sorted(claims.items()):
        chosen, losers = _choose(name, rivals, settings)
        refused += losers
        if chosen is None:
            continue
        try:
            agents[name] = _load(chosen)
        except PluginError as error:
            refused.append(Refusal(name, _owner(chosen), error.message))
    return Registry(MappingProxyType(agents), tuple(sorted(refused)))


def _choose(
    name: str, rivals: list[EntryPoint], settings: PluginSettings
) -> tuple[EntryPoint | None, list[Refusal]]:
    """Decide, before anything is imported, which claim to a name counts."""
    barred = _barred(name, settings)
    if barred:
        return None, [Refusal(name, _owner(point), barred) for point in rivals]
    own = [point for point in rivals if _owner(point) == OWN]
    if len(rivals) == 1:
        return rivals[0], []
    if len(own) == 1:
        losers = [point for point in rivals if point is not own[0]]
        return own[0], [Refusal(name, _owner(point), f"the name belongs to {OWN}") for point in losers]
    owners = sorted({_owner(point) for point in rivals})
    reason = f"the name is claimed more than once, by {' and '.join(owners)}"
    return None, [Refusal(name, _owner(point), reason) for point in rivals]


def _barred(name: str, settings: PluginSettings) -> str:
    if name in settings.deny:
        return "denied by the setting PENSTOCK_PLUGINS__DENY"
    if settings.allow is not None and name not in settings.allow:
        return "not among the names of the setting PENSTOCK_PLUGINS__ALLOW"
    return ""


def _owner(point: EntryPoint) -> str:
    # An entry point that stands alone has no distribution, whatever the type says.
    return point.dist.name.lower() if point.dist is not None else "unknown distribution"


def _load(point: EntryPoint) -> Agent:
    try:
        found = point.load()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may raise anything when imported
        raise PluginContractError(
            f"import of {point.value} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Agent):
        raise PluginContractError(
            f"{point.value} is of type {type(found).__name__}, not an agent;"
            " decorate the function with @agent"
        )
    if found.name != point.name:
        raise PluginContractError(
            f"{point.value} is the agent {found.name!r}, but its entry point says {point.name!r}"
        )
    if found.api != API_VERSION:
        raise PluginVersionError(
            f"{point.value} wants version {found.api} of the plugin API; this Penstock offers {API_VERSION}"
        )
    return found
