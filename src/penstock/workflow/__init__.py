"""The workflow file: parsed, checked and evaluated. Pure: no Prefect, no I/O.

```python
checked = load_workflow(text, file="scan.yaml", catalog=Catalog(agents))
checked.nodes["scan"].render_inputs(scope)
```
"""

from penstock.workflow.catalog import AgentInfo, Catalog
from penstock.workflow.checks import check_workflow, exposed_inputs
from penstock.workflow.compiled import CheckedNode, CheckedTrigger, CheckedWorkflow
from penstock.workflow.declarations import sub_workflows
from penstock.workflow.expressions import Condition, Reference, Template, parse_condition, render_structure
from penstock.workflow.graph import Graph, Link, Outcome, Ready
from penstock.workflow.inputs import Trust, validate_inputs
from penstock.workflow.mermaid import has_gate, to_mermaid
from penstock.workflow.parsing import parse_document, parse_workflow
from penstock.workflow.revisions import Change, canonical_json, diff, digest
from penstock.workflow.salvage import load_workflow
from penstock.workflow.schema import parameter_schema, workflow_json_schema
from penstock.workflow.spec import Workflow

__all__ = [
    "AgentInfo",
    "Catalog",
    "Change",
    "CheckedNode",
    "CheckedTrigger",
    "CheckedWorkflow",
    "Condition",
    "Graph",
    "Link",
    "Outcome",
    "Ready",
    "Reference",
    "Template",
    "Trust",
    "Workflow",
    "canonical_json",
    "check_workflow",
    "diff",
    "digest",
    "exposed_inputs",
    "has_gate",
    "load_workflow",
    "parameter_schema",
    "parse_condition",
    "parse_document",
    "parse_workflow",
    "render_structure",
    "sub_workflows",
    "to_mermaid",
    "validate_inputs",
    "workflow_json_schema",
]
