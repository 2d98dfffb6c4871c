"""Addresses that people follow: pages of the gateway and of the Prefect UI."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from penstock.engine.environment import ui_url
from penstock.settings import Settings

__all__ = ["Links"]


@dataclass(frozen=True)
class Links:
    """Addresses, as the settings make them."""

    settings: Settings

    @property
    def gateway(self) -> str:
        """Where people reach the gateway."""
        gateway = self.settings.gateway
        return gateway.url or f"http://{gateway.host}:{self.settings.port}"

    def request(self, request_id: UUID) -> str:
        """Give the page of a request for approval."""
        return f"{self.gateway}/approvals/{request_id}"

    def arrival(self, token: str) -> str:
        """Give the address that leads to a request once, after the login."""
        return f"{self.gateway}/a/{token}"

    def run(self, run_id: UUID) -> str:
        """Give the page of a run in the Prefect UI."""
        return f"{ui_url(self.settings)}/runs/flow-run/{run_id}"
