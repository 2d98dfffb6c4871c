"""`penstock agents`: what agents there are, and what they take and give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.exits import print_json, reported
from penstock.cli.tables import print_table
from penstock.settings import load_settings

if TYPE_CHECKING:
    from penstock.contracts import Agent
    from penstock.registry import Registry

__all__ = ["app"]

app = typer.Typer(help="List and show agents.", no_args_is_help=True)


@app.command("list")
def list_agents(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the agents that may be used, and those that were refused with the reason."""
    with reported():
        agents = _registry()
    if as_json:
        refused = [{"name": item.name, "reason": item.reason} for item in agents.refused]
        print_json({"agents": [_row(agent) for agent in agents], "refused": refused})
        return
    rows = [(item.name, item.type.value, item.risk.value, item.version, item.summary) for item in agents]
    print_table(("NAME", "TYPE", "RISK", "VERSION", "SUMMARY"), rows)
    for item in agents.refused:
        typer.echo(f"refused: {item.name} ({item.distribution}): {item.reason}", err=True)


@app.command("show")
def show_agent(name: Annotated[str, typer.Argument(help="Name of the agent.")]) -> None:
    """Show an agent's manifest and the JSON Schemas of its input and output."""
    with reported():
        agent = _registry().get(name)
        print_json(
            {
                **_row(agent),
                "description": agent.description,
                "input_schema": agent.input_model.model_json_schema(),
                "output_schema": agent.output_model.model_json_schema(mode="serialization"),
            }
        )


def _registry() -> Registry:
    from penstock import registry  # noqa: PLC0415  agents are slow to import

    return registry.build(load_settings().plugins)


def _row(agent: Agent) -> dict[str, Any]:
    return {
        "name": agent.name,
        "version": agent.version,
        "type": agent.type.value,
        "risk": agent.risk.value,
        "capabilities": list(agent.capabilities),
        "timeout_s": agent.timeout_s,
        "isolation": agent.isolation.value,
        "idempotent": agent.idempotent,
        "egress": list(agent.egress),
        "secrets": list(agent.secrets),
        "summary": agent.summary,
    }
