"""What the file format has and this engine does not run yet: refused, never passed over."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.errors import Problem, SpecError
from penstock.workflow import Workflow

__all__ = ["refuse_unsupported"]

_OF_WORKFLOW = ("triggers", "concurrency", "budget", "error_branches")
_OF_NODE = ("workflow", "foreach", "verify", "cache", "secrets", "pool", "requires")


def refuse_unsupported(workflow: Workflow) -> None:
    """Refuse a workflow that says something which the engine would not do.

    Raises:
        SpecError: With the place of every such key.
    """
    problems = [_problem(workflow, path) for path in _unsupported(workflow)]
    if problems:
        raise SpecError.of(problems)


def _unsupported(workflow: Workflow) -> Iterator[tuple[str | int, ...]]:
    yield from ((key,) for key in _OF_WORKFLOW if getattr(workflow, key))
    for index, node in enumerate(workflow.nodes):
        yield from (("nodes", index, key) for key in _OF_NODE if getattr(node, key))
        if node.undo != "never":
            yield ("nodes", index, "undo")
        if node.on_error not in {"fail", "continue"}:
            yield ("nodes", index, "on_error")


def _problem(workflow: Workflow, path: tuple[str | int, ...]) -> Problem:
    message = f"{path[-1]!r} is not available in this version"
    if workflow.source is None:
        return Problem(workflow.name, 1, 1, message)
    return workflow.source.problem(path, message, key=True)
