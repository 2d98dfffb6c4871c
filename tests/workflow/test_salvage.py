from __future__ import annotations

import pytest

from penstock.errors import SpecError
from penstock.workflow import Catalog, load_workflow
from workflow.samples import CATALOG


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_workflow(text, file="f", catalog=Catalog())
    return [str(problem) for problem in caught.value.problems]


HEAD = "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: bad}\n"


def test_load_tells_mistakes_of_shape_and_meaning_together() -> None:
    text = (
        HEAD + "nodes:\n  - {id: a, agnet: nobody, colour: red, retry: often}\n  - {id: a, agent: nobody}\n"
    )

    found = problems(text)

    assert "f:5:13: unknown key 'agnet'; did you mean 'agent'?" in found
    assert any("'colour'" in line for line in found)
    assert any("f:5:" in line and "mapping" in line for line in found)
    assert any(line.startswith("f:6:") and "'a'" in line for line in found), "the second node has a taken id"
    assert any("no agent" in line or "nobody" in line for line in found)


def test_load_makes_no_mistake_of_its_own() -> None:
    text = HEAD + 'inputs: {x: {type: strange}}\nnodes:\n  - {id: a, agent: nobody, when: "{{ inputs.x }}"}\n'

    found = problems(text)

    assert len(found) == 1
    assert "strange" in found[0]


def test_load_gives_a_file_without_mistakes() -> None:
    text = HEAD + 'nodes:\n  - {id: a, agent: scanner, with: {repository_path: "/r"}}\n'

    assert load_workflow(text, file="f", catalog=CATALOG).graph.order == ("a",)


def test_load_takes_a_gate_that_cannot_be_understood_out_and_finds_nothing_else() -> None:
    gate = "approval: {on_timeout: fail, editable: {text: 1}}"
    text = (
        HEAD
        + f'nodes:\n  - {{id: a, agent: runner, with: {{timeout: "{{{{ approval.round }}}}"}}, {gate}}}\n'
    )

    with pytest.raises(SpecError) as caught:
        load_workflow(text, file="f", catalog=CATALOG)

    assert [problem.message for problem in caught.value.problems] == ["must be a mapping"]


def test_load_looks_no_further_where_leaving_a_mistake_out_makes_another() -> None:
    assert [line.partition(" ")[2] for line in problems(HEAD + "nodes: 1\nnots: {}\n")] == [
        "must be a list",
        "unknown key 'nots'; did you mean 'nodes'?",
    ]
