"""What the file format has and this engine does not run yet: refused, never passed over."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.errors import Problem, SpecError
from penstock.workflow import Workflow
from penstock.workflow.spec import Node

__all__ = ["refuse_unsupported"]

_OF_WORKFLOW = ("triggers",)
_OF_NODE = ("secrets", "pool", "requires")
_OF_SUB_WORKFLOW = ("approval", "undo", "verify", "cache", "retry", "timeout", "blocks")
"""What a node that runs another workflow leaves to that workflow's own nodes."""


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
        yield from _of_node(node, ("nodes", index))
    for name, branch in workflow.error_branches.items():
        for index, node in enumerate(branch):
            yield from _of_node(node, ("error_branches", name, index))


def _of_node(node: Node, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    yield from ((*path, key) for key in _OF_NODE if getattr(node, key))
    if node.workflow is not None:
        yield from ((*path, key) for key in _OF_SUB_WORKFLOW if key in node.model_fields_set)


def _problem(workflow: Workflow, path: tuple[str | int, ...]) -> Problem:
    message = f"{path[-1]!r} is not available in this version"
    if workflow.source is None:
        return Problem(workflow.name, 1, 1, message)
    return workflow.source.problem(path, message, key=True)
