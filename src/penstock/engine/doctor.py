"""Look at this machine and say what is missing, and the line that mends it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from penstock import registry
from penstock.approvals.rules import read_rules
from penstock.errors import SpecError
from penstock.sandbox import probe
from penstock.settings import SandboxBackend, Settings

__all__ = ["Check", "examine"]

_FREE_MB = 500


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    message: str


async def examine(settings: Settings) -> list[Check]:
    """Look at everything that a run needs."""
    return [
        *await _sandbox(settings),
        _agents(settings),
        _rules(settings),
        _database(settings),
        _disk(settings),
    ]


async def _sandbox(settings: Settings) -> list[Check]:
    found = await probe(settings)
    missing = ", ".join(found.missing_tools)
    tools = f"missing: {missing}; run `penstock tools install`" if missing else f"in {found.tools_dir}"
    if not missing and not found.tools_current:
        tools += ", but not in the versions that this Penstock ships; run `penstock tools install`"
    safe = settings.sandbox is not SandboxBackend.NONE
    return [
        Check("sandbox", found.ok and safe, f"{found.backend}: {found.message}"),
        Check("scanners", not missing and found.tools_current, tools),
    ]


def _agents(settings: Settings) -> Check:
    agents = registry.build(settings.plugins)
    refused = "; ".join(f"{item.name}: {item.reason}" for item in agents.refused)
    names = ", ".join(agent.name for agent in agents)
    return Check("agents", not agents.refused, f"refused {refused}" if refused else names)


def _rules(settings: Settings) -> Check:
    """Read the people and the policies; running processes keep the last ones that were right."""
    try:
        rules = read_rules(settings.people, settings.policies)
    except SpecError as error:
        return Check("people and policies", ok=False, message=error.message)
    people = rules.people
    who = f"{len(people.users)} people" if people.closed else "whoever can use this machine may approve"
    return Check("people and policies", ok=True, message=f"{who}, {len(rules.policies.items)} policies")


def _database(settings: Settings) -> Check:
    if settings.database_url is not None:
        return Check("database", ok=True, message="external, from PENSTOCK_DATABASE_URL")
    return Check("database", ok=True, message=f"embedded, in {settings.home_dir}")


def _disk(settings: Settings) -> Check:
    folder = next(path for path in (settings.home_dir, *settings.home_dir.parents) if path.exists())
    free_mb = shutil.disk_usage(folder).free // 2**20
    return Check("disk", free_mb > _FREE_MB, f"{free_mb:,} MB free at {folder}")
