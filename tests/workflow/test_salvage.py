from __future__ import annotations

import pytest

from penstock.errors import SpecError
from penstock.workflow import Catalog, load_workflow


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
