"""Commands on workflow files; they need no server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.exits import Exit, print_json, reported
from penstock.cli.siblings import WorkflowFiles
from penstock.errors import Problem, SpecError
from penstock.settings import load_settings

if TYPE_CHECKING:
    from penstock.workflow import Catalog

__all__ = ["register"]

File = Annotated[Path, typer.Argument(help="Workflow file, YAML or JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)
    app.command()(graph)
    app.command()(schema)


def validate(
    files: Annotated[list[Path], typer.Argument(help="Workflow files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check workflow files and tell every mistake as file:line:column.

    Workflows that they run are looked for among these files and in the same folder.
    """
    with reported():
        agents, together = _agents(), WorkflowFiles(files)
        verdicts = [_verdict(path, together, agents) for path in files]
    if as_json:
        print_json([verdict.data for verdict in verdicts])
    else:
        for verdict in verdicts:
            typer.echo(verdict.text, err=not verdict.valid)
    if not all(verdict.valid for verdict in verdicts):
        raise typer.Exit(Exit.USAGE)


def graph(file: File) -> None:
    """Print the workflow's graph as Mermaid text."""
    from penstock.workflow import to_mermaid  # noqa: PLC0415  quick start

    with reported():
        typer.echo(to_mermaid(WorkflowFiles([file]).check(file, _agents())))


def schema() -> None:
    """Print the JSON Schema of workflow files, for editors."""
    from penstock.workflow import workflow_json_schema  # noqa: PLC0415  quick start

    print_json(workflow_json_schema())


@dataclass(frozen=True)
class _Verdict:
    file: str
    valid: bool
    problems: tuple[Problem, ...]
    text: str

    @property
    def data(self) -> dict[str, object]:
        return {
            "file": self.file,
            "valid": self.valid,
            "problems": [asdict(problem) for problem in self.problems],
        }


def _verdict(path: Path, together: WorkflowFiles, agents: Catalog) -> _Verdict:
    try:
        together.check(path, agents)
    except SpecError as error:
        return _Verdict(str(path), valid=False, problems=error.problems, text=error.message)
    return _Verdict(str(path), valid=True, problems=(), text=f"{path}: valid")


def _agents() -> Catalog:
    from penstock import registry  # noqa: PLC0415  agents are slow to import
    from penstock.workflow import catalog  # noqa: PLC0415

    agents = registry.build(load_settings().plugins)
    return catalog.Catalog({agent.name: catalog.AgentInfo.of(agent) for agent in agents})
