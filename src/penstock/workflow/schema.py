"""JSON Schemas that are made of the models: of the file, for editors, and of a run's form."""

from __future__ import annotations

from pydantic import JsonValue

from penstock.workflow.inputs import input_schema
from penstock.workflow.spec import InputSpec, Workflow


def workflow_json_schema() -> dict[str, JsonValue]:
    """Give the JSON Schema of the workflow file, for editors."""
    schema = Workflow.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Penstock workflow"}


def parameter_schema(workflow: Workflow) -> dict[str, JsonValue]:
    """Give the flat schema of a workflow's inputs for the form in the Prefect UI."""
    properties: dict[str, JsonValue] = {
        name: _parameter(name, spec, position)
        for position, (name, spec) in enumerate(workflow.inputs.items())
    }
    required: list[JsonValue] = [name for name, spec in workflow.inputs.items() if spec.is_required]
    return {
        "title": "Parameters",
        "type": "object",
        "properties": properties,
        "required": required,
        "definitions": {},
        "additionalProperties": False,
    }


def _parameter(name: str, spec: InputSpec, position: int) -> dict[str, JsonValue]:
    return {**input_schema(spec), "title": spec.title or name, "position": position}
