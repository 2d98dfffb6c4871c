"""Keeps in the audit chain which people and policies were in force."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.approvals.rules import RuleBook
from penstock.store.audit import note_policy
from penstock.store.database import Database

__all__ = ["RulesNoter"]


@dataclass
class RulesNoter:
    """Notes each version of the rules once, however many processes read them."""

    database: Database
    rules: RuleBook
    process: str
    """Name of the process that reads them."""
    _noted: str = field(default="", init=False)

    async def note(self) -> None:
        """Note the version that is in force, unless it was noted last."""
        version = self.rules.current().version
        if version != self._noted:
            await note_policy(self.database, version, process=self.process)
            self._noted = version
