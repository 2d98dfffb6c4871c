"""Workflow files that run each other: checked together with the files beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.cli.session import read_file
from penstock.errors import Problem, SpecError

if TYPE_CHECKING:
    from penstock.workflow import Catalog, CheckedWorkflow, Workflow

__all__ = ["WorkflowFiles"]

_PATTERNS = ("*.yaml", "*.yml")


class WorkflowFiles:
    """The workflow files of one command; each is parsed once.

    Args:
        named: The files that the command names.
    """

    def __init__(self, named: Sequence[Path]) -> None:
        self._named = named
        self._read: dict[Path, _File] = {}

    def check(self, path: Path, agents: Catalog) -> CheckedWorkflow:
        """Check a file; workflows that it runs are those of the named files, then of its folder.

        Raises:
            SpecError: With every mistake, also of a file that holds a workflow which it runs.
        """
        from penstock.engine.support import refuse_unsupported  # noqa: PLC0415  quick start
        from penstock.workflow import load_workflow  # noqa: PLC0415

        text, own = read_file(path), self._file(path)
        others = list(self._beside(path)) if b"workflow" in text else []
        known = {other.name: other.workflow for other in reversed(others) if other.workflow}
        try:
            checked = load_workflow(text, file=str(path), catalog=replace(agents, workflows=known))
            refuse_unsupported(checked.workflow)
        except SpecError as error:
            wanted = set(own.runs) - set(known)
            further = [p for other in others if other.name in wanted for p in other.problems]
            raise SpecError.of([*error.problems, *further]) from None
        return checked

    def children_first(self) -> list[Path]:
        """Order the named files so that each comes after those that it runs.

        Files that run each other in a ring stay as they were given; the check tells of them.
        """
        files = {path: self._file(path) for path in self._named}
        holders = {file.name: path for path, file in files.items()}
        order: TopologicalSorter[Path] = TopologicalSorter()
        for path, file in files.items():
            order.add(path, *(holders[name] for name in file.runs if name in holders))
        try:
            return list(order.static_order())
        except CycleError:
            return list(files)

    def _beside(self, path: Path) -> Iterator[_File]:
        """Give the other files, those first that count first when two hold one name."""
        seen = {path.resolve()}
        found = sorted(beside for pattern in _PATTERNS for beside in path.parent.glob(pattern))
        for other in (*self._named, *found):
            if other.resolve() not in seen and other.is_file():
                seen.add(other.resolve())
                yield self._file(other)

    def _file(self, path: Path) -> _File:
        if path not in self._read:
            self._read[path] = _File.of(path)
        return self._read[path]


@dataclass(frozen=True)
class _File:
    name: str
    """Of the workflow that it holds, or seems to hold."""
    workflow: Workflow | None
    runs: tuple[str, ...] = ()
    """The workflows that its nodes run."""
    problems: tuple[Problem, ...] = ()
    """Why it holds none."""

    @classmethod
    def of(cls, path: Path) -> _File:
        """Read a file, whatever is in it."""
        from penstock.workflow import parse_workflow, sub_workflows  # noqa: PLC0415  quick start

        try:
            workflow = parse_workflow(read_file(path), file=str(path))
        except SpecError as error:
            return cls(_name_in(path), None, problems=error.problems)
        return cls(workflow.name, workflow, tuple(sub_workflows(workflow)))


def _name_in(path: Path) -> str:
    """Give the name that a broken workflow file claims, or that of the file when it does not say."""
    from penstock.workflow.source import read_source  # noqa: PLC0415  quick start

    try:
        data: Any = read_source(read_file(path), file=str(path)).data
        return str(data["metadata"]["name"])
    except (SpecError, TypeError, KeyError):
        return path.stem
