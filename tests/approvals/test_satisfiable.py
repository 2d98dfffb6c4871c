"""Gates and policies that the people who are known could never open, and who could open the others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.people import People, parse_people
from penstock.approvals.policy import Policies, parse_policy
from penstock.approvals.quorum import Vote, tally
from penstock.approvals.rules import Rules
from penstock.approvals.satisfiable import Able, able, unsatisfiable, unsatisfiable_policies
from penstock.approvals.terms import Clause, Terms
from penstock.workflow import Workflow, parse_workflow
from workflow.samples import CATALOG, HEAD

PEOPLE = """apiVersion: penstock/v1
kind: People
users:
  ada: {role: approver, groups: [sre, dev]}
  bob: {role: approver, groups: [dev]}
  cy: {groups: [ops]}
groups:
  sre: {}
  dev: {}
  ops: {}
"""
OPEN = PEOPLE.replace("ops: {}", "ops: {claims: [okta-ops]}")
OPEN_TO_APPROVERS = PEOPLE.replace("ops: {}", "ops: {claims: [okta-ops], role: approver}")
POLICY = "apiVersion: penstock/v1\nkind: Policy\nmetadata: {name: p}\n"


def people(text: str = PEOPLE) -> People:
    return parse_people(text, file="people.yaml")


def rules(text: str = "", who: str | None = PEOPLE) -> Rules:
    policies = Policies((parse_policy(POLICY + text, file="p.yaml"),)) if text else Policies()
    return Rules(people(who) if who else People(), policies)


def node(text: str) -> str:
    return f"nodes:\n  - {{id: a, {text}}}\n"


def of_gate(
    text: str, given: Rules | None = None, *, editor: str = "root", agent: str = "runner"
) -> list[str]:
    """Give the problems of a workflow with one gate."""
    return of_file(node(f"agent: {agent}, approval: {text}"), given, editor=editor)


def of_file(body: str, given: Rules | None = None, *, editor: str = "root") -> list[str]:
    workflow = parse_workflow(HEAD + body, file="w.yaml")
    found = unsatisfiable(workflow, CATALOG.agents, given or rules(), editor=editor)
    return [str(problem) for problem in found]


def never(place: str, needs: str, rest: str) -> list[str]:
    return [f"{place}: nobody could ever approve this: it needs {needs}, and {rest}"]


def test_gates_that_can_be_opened_are_no_problem() -> None:
    assert of_gate("{}") == []
    assert of_gate("{require: {count: 2}}") == []
    assert of_gate("{require: {count: 2, from: ['group:dev']}}") == []
    assert of_gate("{require: {count: 2, from: ['group:sre', 'group:dev'], distinct_groups: true}}") == []
    assert of_gate("{require: {count: 2, from: ['user:ada', 'user:bob']}}") == []
    assert of_file(node("agent: runner")) == []
    assert of_file(node("agent: scanner, with: {repository_path: /r}"), rules("rules: []\n")) == []


def test_too_few_people_are_told_with_their_names() -> None:
    assert of_gate("{require: {count: 3}}") == never(
        "w.yaml:5:48", "3 approvals", "only 2 people could give one (ada, bob)"
    )
    assert of_gate("{require: {count: 2, from: ['group:sre']}}") == never(
        "w.yaml:5:48", "2 approvals from group:sre", "only 1 person could give one (ada)"
    )
    assert of_gate("{require: {from: ['group:ops', 'user:cy']}}") == never(
        "w.yaml:5:48", "1 approval from group:ops or user:cy", "nobody could give one"
    )


def test_distinct_groups_need_different_people() -> None:
    three = "{require: {count: 3, from: ['group:sre', 'group:dev', 'user:ada'], distinct_groups: true}}"

    assert of_gate(three) == never(
        "w.yaml:5:48",
        "3 approvals from group:sre or group:dev or user:ada, each for another of these",
        "only 2 people could give one (ada, bob)",
    )


def test_who_applies_the_workflow_may_be_left_out() -> None:
    gate = "{require: {from: ['group:sre']}, forbid: [last_editor]}"

    assert of_gate(gate, editor="bob") == []
    assert of_gate(gate, editor="ada") == never(
        "w.yaml:5:48",
        "1 approval from group:sre",
        "nobody could give one; ada, who applies the workflow, may not",
    )
    assert of_gate("{require: {count: 3}, forbid: [last_editor]}", editor="cy") == never(
        "w.yaml:5:48", "3 approvals", "only 2 people could give one (ada, bob)"
    )
    assert of_gate("{require: {from: ['group:sre']}}", editor="ada") == []


def test_the_requester_is_not_known_yet_and_counts() -> None:
    assert of_gate("{require: {count: 2}, forbid: [requester]}", editor="ada") == []


def test_those_who_are_asked_later_count() -> None:
    gate = "{require: {count: 2, from: ['group:sre']}, escalate: {after: 1h, to: ['user:bob']}}"

    assert of_gate(gate) == []
    assert of_gate(gate.replace("user:bob", "user:ada")) != []
    assert of_gate("{escalate: {after: 1h, to: ['user:bob']}}") == []


def test_unknown_names_are_told_at_their_place_and_nothing_else() -> None:
    gate = (
        "{require: {count: 9, from: ['group:sra', 'user:ada', 'user:bub']},"
        " escalate: {after: 1h, to: ['user:zoe', 'group:dev']}}"
    )

    assert of_gate(gate) == [
        "w.yaml:5:66: unknown group 'sra'; did you mean 'sre'?",
        "w.yaml:5:91: unknown user 'bub'; did you mean 'bob'?",
        "w.yaml:5:132: unknown user 'zoe'; known: ada, bob, cy",
    ]


def test_without_a_people_file_there_are_no_groups() -> None:
    given = rules(who=None)

    assert of_gate("{require: {count: 7}}", given) == []
    assert of_gate("{require: {count: 2, from: ['user:x', 'user:y']}}", given) == []
    assert of_gate("{require: {from: ['user:x', 'group:sre']}}", given) == [
        "w.yaml:5:66: there is no group 'sre': there is no people file; set PENSTOCK_PEOPLE"
    ]
    assert of_gate("{require: {count: 2, from: ['user:x', 'user:x']}}", given) == never(
        "w.yaml:5:48", "2 approvals from user:x", "only 1 person could give one (x)"
    )
    assert len(of_gate("{require: {from: ['user:x']}, forbid: [last_editor]}", given, editor="x")) == 1


def test_a_group_that_is_open_to_approvers_is_enough() -> None:
    given = rules(who=OPEN_TO_APPROVERS)

    assert of_gate("{require: {count: 9, from: ['group:ops']}}", given) == []
    assert of_gate("{require: {count: 9}}", given) == []
    assert (
        of_gate(
            "{require: {count: 3, from: ['group:sre', 'group:dev', 'group:ops'], distinct_groups: true}}",
            given,
        )
        == []
    )
    assert len(of_gate("{require: {count: 3, from: ['group:sre', 'group:dev']}}", given)) == 1


def test_a_group_that_is_open_to_viewers_holds_only_approvers_who_are_known() -> None:
    given = rules(who=OPEN)

    assert of_gate("{require: {count: 2, from: ['group:ops']}}", given) == []
    assert of_gate("{require: {count: 3, from: ['group:ops']}}", given) == never(
        "w.yaml:5:48", "3 approvals from group:ops", "only 2 people could give one"
    )


def test_the_risk_alone_needs_somebody() -> None:
    nobody = rules(who=PEOPLE.replace("approver", "viewer"))

    assert of_file(node("agent: runner"), nobody) == never(
        "w.yaml:5:20", "1 approval", "nobody could give one"
    )
    assert of_file(node("agent: scanner, with: {repository_path: /r}"), nobody) == []


def test_nodes_of_error_branches_are_looked_at() -> None:
    body = (
        node("agent: runner, on_error: b")
        + "error_branches: {b: [{id: c, agent: runner, approval: {require: {from: ['user:x']}}}]}\n"
    )

    assert of_file(body) == ["w.yaml:6:73: unknown user 'x'; known: ada, bob, cy"]


def test_other_workflows_and_unknown_agents_are_passed_over() -> None:
    gate = "approval: {require: {count: 9}}"

    assert of_file(node(f"agent: nobody-knows, {gate}")) == []
    assert of_file(node(f"workflow: sub-scan, {gate}")) == []


RULE = "rules: [{name: r, match: {%s}, require: {count: 3}}]\n"


def test_a_policy_is_told_at_the_node_that_it_concerns() -> None:
    expected = never("w.yaml:5:20", "3 approvals", "only 2 people could give one (ada, bob)")
    for match in ("agents: ['*']", "agents: ['scan*'], types: [ANALYSIS], workflows: [sample]"):
        found = of_file(node("agent: scanner, with: {repository_path: /r}"), rules(RULE % match))
        assert found == [expected[0].replace("nobody", "policy p/r: nobody", 1)]


@pytest.mark.parametrize(
    "match", ["agents: [runner]", "types: [EXECUTION]", "workflows: [other]", "targets: ['*']"]
)
def test_a_policy_for_something_else_or_for_targets_says_nothing(match: str) -> None:
    assert of_file(node("agent: scanner, with: {repository_path: /r}"), rules(RULE % match)) == []


def test_a_policy_may_forbid_who_applies_the_workflow() -> None:
    given = rules("rules: [{name: r, forbid: [last_editor]}]\n")

    (problem,) = of_gate("{require: {from: ['group:sre']}}", given, editor="ada")

    assert problem.endswith("ada, who applies the workflow, may not")


def test_unknown_names_of_a_policy_are_told_at_the_node() -> None:
    given = rules("rules: [{name: r, require: {from: ['group:sra']}}]\n")

    assert of_file(node("agent: runner"), given) == [
        "w.yaml:5:20: policy p/r: unknown group 'sra'; did you mean 'sre'?"
    ]


def test_a_workflow_from_no_file_has_its_places_in_its_canonical_text() -> None:
    parsed = parse_workflow(HEAD + node("agent: runner, approval: {require: {count: 9}}"), file="w.yaml")
    workflow = Workflow.model_validate(parsed.model_dump(mode="json", by_alias=True))

    (problem,) = unsatisfiable(workflow, CATALOG.agents, rules(), editor="")

    assert (problem.file, problem.line) == ("sample", 1)
    assert problem.column > 1


def test_policies_are_checked_by_themselves() -> None:
    night = "{days: [mon], from: '00:00', to: '01:00'}"
    given = rules(
        "rules:\n"
        "  - {name: fine, require: {count: 2}}\n"
        "  - {name: many, require: {count: 3}}\n"
        "  - {name: typo, match: {targets: [x]}, require: {from: ['group:sra']}}\n"
        "freezes:\n"
        f"  - {{name: f, weekly: {night}, break_glass: {{from: ['group:sre']}}}}\n"
        f"  - {{name: g, weekly: {night}}}\n"
    )

    assert [str(problem) for problem in unsatisfiable_policies(given)] == [
        *never("p.yaml:6:27", "3 approvals", "only 2 people could give one (ada, bob)"),
        "p.yaml:7:58: unknown group 'sra'; did you mean 'sre'?",
        *never("p.yaml:9:79", "2 approvals from group:sre", "only 1 person could give one (ada)"),
    ]
    assert unsatisfiable_policies(rules()) == []


def test_a_rule_without_require_is_told_at_the_rule() -> None:
    nobody = rules("rules: [{name: r}]\n", who=PEOPLE.replace("approver", "viewer"))

    assert [str(problem) for problem in unsatisfiable_policies(nobody)] == never(
        "p.yaml:4:9", "1 approval", "nobody could give one"
    )


def test_who_could_meet_a_clause() -> None:
    dev = Clause("workflow", "", of=("group:dev", "group:ops"))

    assert able(dev, people()) == Able(("ada", "bob"), others=False, most=2)
    assert able(dev, people(), without="ada") == Able(("bob",), others=False, most=1)
    assert able(dev, people(OPEN_TO_APPROVERS)) == Able(("ada", "bob", "cy"), others=True, most=None)
    assert able(dev, people(OPEN)) == Able(("ada", "bob"), others=False, most=2)
    sre = Clause("workflow", "", of=("group:ops",))
    assert able(sre, people(OPEN)) == Able((), others=True, most=2)
    assert able(Clause("risk", ""), people()) == Able(("ada", "bob"), others=False, most=2)
    assert able(Clause("risk", ""), People()) == Able((), others=True, most=None)
    assert able(Clause("risk", "", of=("user:x", "user:x")), People()) == Able(("x",), others=False, most=1)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    of=st.lists(
        st.sampled_from(["group:sre", "group:dev", "group:ops", "user:ada", "user:bob", "user:cy"]),
        unique=True,
        max_size=4,
    ),
    count=st.integers(1, 3),
    distinct=st.booleans(),
)
def test_what_can_be_met_is_met_when_all_approvers_approve(of: list[str], count: int, distinct: bool) -> None:
    clause = Clause("workflow", "", count=count, of=tuple(of), distinct_groups=distinct and bool(of))
    votes = [Vote(person.name, person.groups) for person in people().users if person.approver]
    terms = Terms((clause,))

    most = able(clause, people()).most

    assert most is not None
    assert (most >= count) is tally(terms, votes, now=datetime.now(UTC), escalated=False).met
