"""Addresses that people follow: pages of the gateway and of the Prefect UI."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from penstock.engine.environment import UI_BASE, ui_url
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
        host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
        return gateway.url or f"http://{host}:{self.settings.port}"

    def request(self, request_id: UUID) -> str:
        """Give the page of a request for approval."""
        return f"{self.gateway}/approvals/{request_id}"

    def arrival(self, token: str) -> str:
        """Give the address that leads to a request once, after the login."""
        return f"{self.gateway}/a/{token}"

    @property
    def prefect(self) -> str:
        """Where people reach the Prefect UI: behind the gateway's login if it is that of our own server."""
        return ui_url(self.settings) if self.settings.prefect.api_url else f"{self.gateway}{UI_BASE}"

    def run(self, run_id: UUID) -> str:
        """Give the page of a run in the Prefect UI."""
        return f"{self.prefect}/runs/flow-run/{run_id}"

    def deployment(self, deployment_id: UUID) -> str:
        """Give the page of a workflow's deployment in the Prefect UI."""
        return f"{self.prefect}/deployments/deployment/{deployment_id}"
