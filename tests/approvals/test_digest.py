from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from penstock.approvals.digest import digest_of_all, semantic_digest
from penstock.contracts import Agent, AgentContext, AgentType, Change, Plan, Risk, agent


class Target(BaseModel):
    """What to change."""

    path: str = Field(description="File.")


@agent(name="patcher", type=AgentType.MODIFICATION, risk=Risk.APPROVAL_REQUIRED, version="2")
async def patch(ctx: AgentContext, params: Target) -> Target:
    """Change a file."""
    del ctx
    return params


INPUTS: dict[str, Any] = {"path": "a.py", "lines": [1, 2], "options": {"force": False, "depth": 1}}
PLAN = Plan(
    "Patch a.py",
    targets=("a.py", "b.py"),
    changes=(Change("a.py", "modify", "two lines"), Change("b.py", "create")),
    diff="-x = 1\n+x = 2\n",
    undo="git revert",
    data={"commit": "abc", "files": ["a.py"]},
)


def digest(
    agent: Agent = patch,
    inputs: Mapping[str, Any] = INPUTS,
    plan: Plan | None = PLAN,
    workflow: str = "fix",
    revision: int = 3,
) -> str:
    return semantic_digest(agent, inputs, plan, workflow=workflow, revision=revision)


CHANGED = {
    "workflow": digest(workflow="fix-all"),
    "revision": digest(revision=4),
    "agent": digest(replace(patch, name="patcher-two")),
    "version": digest(replace(patch, version="3")),
    "value of an input": digest(inputs={**INPUTS, "path": "b.py"}),
    "type of an input": digest(inputs={**INPUTS, "path": 1}),
    "true is not one": digest(inputs={**INPUTS, "options": {"force": False, "depth": True}}),
    "null is not nothing": digest(inputs={**INPUTS, "more": None}),
    "order of a list": digest(inputs={**INPUTS, "lines": [2, 1]}),
    "depth of a list": digest(inputs={**INPUTS, "lines": [[1, 2]]}),
    "inside of an input": digest(inputs={**INPUTS, "options": {"force": True, "depth": 1}}),
    "missing input": digest(inputs={"path": "a.py", "lines": [1, 2]}),
    "no plan": digest(plan=None),
    "empty plan": digest(plan=Plan("")),
    "summary": digest(plan=replace(PLAN, summary="Patch a.py ")),
    "targets": digest(plan=replace(PLAN, targets=("a.py",))),
    "order of targets": digest(plan=replace(PLAN, targets=("b.py", "a.py"))),
    "borders of targets": digest(plan=replace(PLAN, targets=("a.pyb.py",))),
    "target of a change": digest(
        plan=replace(PLAN, changes=(Change("c.py", "modify", "two lines"), PLAN.changes[1]))
    ),
    "action of a change": digest(
        plan=replace(PLAN, changes=(Change("a.py", "delete", "two lines"), PLAN.changes[1]))
    ),
    "detail of a change": digest(
        plan=replace(PLAN, changes=(Change("a.py", "modify", "one line"), PLAN.changes[1]))
    ),
    "number of changes": digest(plan=replace(PLAN, changes=PLAN.changes[:1])),
    "diff": digest(plan=replace(PLAN, diff="-x = 1\n+x = 3\n")),
    "whitespace in the diff": digest(plan=replace(PLAN, diff="-x = 1\n+x =  2\n")),
    "undo": digest(plan=replace(PLAN, undo="")),
    "data": digest(plan=replace(PLAN, data={"commit": "abd", "files": ["a.py"]})),
    "inside of data": digest(plan=replace(PLAN, data={"commit": "abc", "files": ["a.py", "b.py"]})),
}


@pytest.mark.parametrize("what", CHANGED)
def test_digest_changes_with_everything_that_is_bound(what: str) -> None:
    others = [found for name, found in CHANGED.items() if name != what]

    assert CHANGED[what] not in {digest(), *others}


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(digest(inputs=dict(reversed([*INPUTS.items()]))), id="order of inputs"),
        pytest.param(digest(inputs={**INPUTS, "options": {"depth": 1, "force": False}}), id="order inside"),
        pytest.param(digest(inputs={**INPUTS, "lines": (1, 2)}), id="tuple in place of a list"),
        pytest.param(
            digest(plan=replace(PLAN, targets=[*PLAN.targets], changes=[*PLAN.changes])), id="lists"
        ),
        pytest.param(
            digest(plan=replace(PLAN, data={"files": ["a.py"], "commit": "abc"})), id="order of data"
        ),
        pytest.param(digest(replace(patch, description="Other words.", timeout_s=1.0)), id="words about it"),
    ],
)
def test_digest_is_the_same_for_the_same(same: str) -> None:
    assert same == digest()


def test_digest_is_the_sum_of_a_text_that_any_version_writes_alike() -> None:
    text = (
        '{"agent":"patcher","inputs":{"path":"\\u00e9"},"plan":{"changes":[{"action":"modify","detail":"",'
        '"target":"a"}],"data":{},"diff":"","summary":"s","targets":["a"],"undo":""},"revision":3,'
        '"version":"2","workflow":"fix"}'
    )

    found = digest(inputs={"path": "é"}, plan=Plan("s", targets=["a"], changes=[Change("a", "modify")]))

    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_text_that_is_no_unicode_can_be_bound() -> None:
    """Files that are not UTF-8 come as lone surrogates."""
    broken = [
        digest(plan=replace(PLAN, diff=f"+x = '{char}'")) for char in ("\udc80", "\udc81", "?", "\\udc80")
    ]

    assert len(set(broken)) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text('ab"\\,:{}[]\u00e9', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
mappings = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)
texts = st.text('ab",', max_size=3)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(inputs=st.tuples(mappings, mappings), targets=st.tuples(st.lists(texts), st.lists(texts)))
def test_digests_are_equal_only_when_all_is(
    inputs: tuple[dict[str, Any], dict[str, Any]], targets: tuple[list[str], list[str]]
) -> None:
    one, other = (
        digest(inputs=given, plan=Plan("p", targets=named))
        for given, named in zip(inputs, targets, strict=True)
    )

    # JSON text tells true from 1, which `==` does not.
    first, second = (
        [json.dumps(given, sort_keys=True), named] for given, named in zip(inputs, targets, strict=True)
    )
    assert (one == other) == (first == second)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.dictionaries(texts, texts, max_size=3), st.dictionaries(texts, texts, max_size=3))
def test_digest_of_all_items_is_equal_only_when_each_is(one: dict[str, str], other: dict[str, str]) -> None:
    assert (digest_of_all(one) == digest_of_all(other)) == (one == other)
    assert digest_of_all(dict(reversed([*one.items()]))) == digest_of_all(one)
