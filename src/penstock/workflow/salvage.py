"""Check what is left of a file whose shape is wrong, so that all its mistakes come in one go.

What is mistyped is taken as it was probably meant, and what cannot be understood is left
out, as long as leaving it out makes no mistake that the file does not have.
"""

from __future__ import annotations

import copy
from typing import Any

from pydantic import ValidationError

from penstock.errors import Problem, SpecError
from penstock.workflow.catalog import Catalog
from penstock.workflow.checks import check_workflow
from penstock.workflow.compiled import CheckedWorkflow
from penstock.workflow.parsing import document_from, follow, keys_of
from penstock.workflow.source import Path, Source, read_source
from penstock.workflow.spec import Workflow
from penstock.workflow.suggestions import closest

_ROUNDS = 10
_MAY_BE_LEFT_OUT = frozenset(
    {"retry", "timeout", "cache", "undo", "verify", "approval", "pool", "requires", "blocks", "secrets"}
)
"""Keys of a node that no other part of the file refers to."""


def load_workflow(text: str | bytes, *, file: str, catalog: Catalog) -> CheckedWorkflow:
    """Parse and check a workflow file.

    Args:
        text: YAML or JSON.
        file: Name of the file in messages.
    Raises:
        SpecError: `problems` holds every mistake of syntax, shape and meaning.
    """
    source = read_source(text, file=file)
    try:
        workflow = document_from(source, Workflow, what="workflow")
    except SpecError as shape:
        found = {*shape.problems, *_further_problems(source, catalog)}
        raise SpecError.of(sorted(found)) from None
    return check_workflow(workflow, catalog)


def _further_problems(source: Source, catalog: Catalog) -> tuple[Problem, ...]:
    workflow = _salvaged(source)
    if workflow is None:
        return ()
    try:
        check_workflow(workflow, catalog)
    except SpecError as error:
        return error.problems
    return ()


def _salvaged(source: Source) -> Workflow | None:
    data: Any = copy.deepcopy(source.data)
    for _ in range(_ROUNDS):
        try:
            return Workflow.model_validate(data).read_from(source)
        except ValidationError as error:
            details = error.errors(include_url=False)
        if not all(_mend(data, item["loc"], item["type"]) for item in details):
            return None
    return None


def _mend(data: Any, loc: tuple[str | int, ...], kind: str) -> bool:
    """Take one mistake out; False when that cannot be done without making another."""
    path, model = follow(loc, Workflow)
    if kind == "extra_forbidden":
        holder = _at(data, path[:-1])
        value = holder.pop(path[-1], None)
        meant = closest(str(path[-1]), set(keys_of(model)) - set(holder))
        if meant is not None:
            holder[meant] = value
        return True
    if path[:1] == ("nodes",) and len(path) > 2 and path[2] in _MAY_BE_LEFT_OUT:
        _at(data, path[:2]).pop(path[2], None)
        return True
    return False


def _at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data
