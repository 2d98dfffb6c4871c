import time
from dataclasses import replace

import pytest
from pydantic import BaseModel, Field, JsonValue

from penstock.contracts import Agent, AgentContext, AgentType, Risk, agent
from penstock.errors import ExpressionError
from penstock.workflow import (
    AgentInfo,
    Catalog,
    Workflow,
    canonical_json,
    check_workflow,
    has_gate,
    parse_workflow,
    to_mermaid,
)
from penstock.workflow.checks import exposed_inputs
from workflow.samples import CATALOG, HEAD, SCANNER, SUB, check, finding, parse

FULL = """
inputs:
  repo: {type: string, allow: repositories}
  hosts: {type: array, items: {type: string}, default: [a, b]}
  deep: {type: boolean, default: false}
triggers:
  - type: alertmanager
    filter: "{{ trigger.status == 'firing' and trigger.commonLabels.alertname == 'Vulnerable' }}"
    inputs: {repo: "{{ trigger.alerts[0].labels.repo }}", deep: true}
    key: "{{ trigger.groupKey }}"
    cooldown: 30m
  - {type: schedule, cron: "0 6 * * 1-5", inputs: {repo: main}}
  - {type: kafka, topic: tickets, inputs: {repo: "{{ trigger.repo }}"}}
concurrency: {key: "{{ inputs.repo }}"}
nodes:
  - id: scan
    agent: scanner
    with: {repository_path: "{{ inputs.repo }}", depth: "{{ nodes.first.output.summary.total }}"}
    timeout: 5m
    retry: {max: 5, base: 1s, cap: 4s, jitter: 0.5}
  - {id: first, agent: scanner, with: {repository_path: "{{ inputs.repo }}"}}
  - id: each
    agent: scanner
    foreach: {in: "{{ nodes.scan.output.findings }}", as: found, max_items: 2}
    with: {repository_path: "{{ found.file }}", rules: ["{{ found.rule }}"]}
    cache: {ttl: 10m}
  - id: fix
    agent: runner
    when: "{{ nodes.scan.output.findings | length > 0 and inputs.deep }}"
    needs: [each]
    with: {text: "{{ inputs.hosts | join(', ') }} {{ trigger.groupKey | default('') }}", timeout: 5}
    approval:
      title: "Fix {{ inputs.repo }}"
      require: {from: ["group:sre"]}
      escalate: {after: 1h, to: ["user:a"]}
    undo: automatic
    on_error: clean
    blocks: {github: my-github}
    verify: {agent: scanner, with: {repository_path: "{{ inputs.repo }}", depth: 2}, within: 5m}
  - id: sub
    workflow: sub-scan
    with: {where: "{{ inputs.repo }}", listed: x}
  - id: report
    agent: runner
    run: always
    with: {text: "{{ nodes.fix.status }} {{ nodes.fix.output.ok | default(false) }}"}
  - {id: alarm, agent: runner, run: on_failure, needs: [scan]}
error_branches:
  clean:
    - {id: tidy, agent: runner, with: {text: "{{ error.message }} {{ nodes.scan.output.note }}"}}
    - id: tell
      agent: runner
      needs: [tidy]
      with: {text: "{{ nodes.fix.output.ok | default('?') }}"}
      on_error: continue
outputs:
  total: "{{ nodes.scan.output.summary.total }}"
  fixed: "{{ nodes.fix.output.ok | default(false) }}"
  sub: "{{ nodes.sub.output.total }}"
"""


def test_check_accepts_a_full_file() -> None:
    checked = check(FULL)

    assert checked.graph.order == ("first", "scan", "each", "fix", "sub", "report", "alarm")
    assert checked.branches["clean"].order == ("tidy", "tell")
    assert checked.nodes["fix"].link.hard == ("each", "scan")
    assert checked.nodes["report"].link.soft == ("fix",)
    assert checked.nodes["tidy"].link.hard == ()
    assert checked.exposed == {}


def test_checked_node_tells_how_to_run() -> None:
    nodes = check(FULL).nodes

    assert nodes["scan"].timeout_s == 300
    assert nodes["first"].timeout_s == 120
    assert nodes["sub"].timeout_s is None
    assert nodes["sub"].agent is None
    assert nodes["report"].run == "always"
    assert nodes["first"].retry.max == 3
    assert nodes["scan"].retry.delay_s(1, 0.5) == 1.0
    assert nodes["scan"].retry.delay_s(9, 1.0) == 6.0


def test_checked_node_renders() -> None:
    nodes = check(FULL).nodes
    output: JsonValue = {"findings": [finding(), finding(file="b.py")], "note": "n"}
    scope: dict[str, JsonValue] = {
        "inputs": {"repo": "/r", "deep": True, "hosts": ["a"]},
        "nodes": {"scan": {"output": output}},
    }

    items = nodes["each"].render_items(scope)

    assert len(items) == 2
    assert nodes["each"].render_inputs({**scope, "found": items[1]})["repository_path"] == "b.py"
    assert nodes["scan"].condition(scope)
    assert nodes["fix"].condition(scope)
    assert nodes["fix"].render_title(scope) == "Fix /r"
    assert nodes["scan"].render_title(scope) is None
    assert nodes["fix"].render_verify(scope) == {"repository_path": "/r", "depth": 2}
    assert nodes["scan"].render_verify(scope) == {}
    assert nodes["scan"].render_items(scope) == []


def test_checked_node_refuses_items() -> None:
    node = check(FULL).nodes["each"]

    with pytest.raises(ExpressionError, match="3 items; max_items is 2"):
        node.render_items({"nodes": {"scan": {"output": {"findings": [1, 2, 3]}}}})
    with pytest.raises(ExpressionError, match="not a list"):
        node.render_items({"nodes": {"scan": {"output": {"findings": "a"}}}})


def test_checked_workflow_renders() -> None:
    checked = check(FULL)
    nodes: JsonValue = {"scan": {"output": {"summary": {"total": 3}}}, "sub": {"output": {"total": 1}}}

    assert checked.render_outputs({"nodes": nodes}) == {"total": 3, "fixed": False, "sub": 1}
    assert checked.render_concurrency_key({"inputs": {"repo": "/r"}}) == "/r"
    assert check("nodes: [{id: a, agent: runner}]\n").render_concurrency_key({}) is None


def test_checked_trigger_renders() -> None:
    alert, schedule, _ = check(FULL).triggers
    event: dict[str, JsonValue] = {
        "status": "firing",
        "groupKey": "g",
        "commonLabels": {"alertname": "Vulnerable"},
        "alerts": [{"labels": {"repo": "/r"}}],
    }

    assert alert.accepts(event)
    assert not alert.accepts({**event, "status": "resolved"})
    assert alert.render_inputs(event) == {"repo": "/r", "deep": True}
    assert alert.render_key(event) == "g"
    assert schedule.accepts({})
    assert schedule.render_key({}) is None


def test_check_needs_no_file() -> None:
    workflow = Workflow.model_validate(
        parse(FULL).model_dump(by_alias=True, mode="json", exclude_defaults=True)
    )

    assert workflow.source is None
    assert check_workflow(workflow, CATALOG).graph.order[0] == "first"


ACCEPTED = {
    "number where a whole one is wanted": (
        "nodes:\n  - {id: a, agent: scanner, with: {repository_path: /r}}\n"
        '  - {id: b, agent: scanner, with: {repository_path: /r, depth: "{{ nodes.a.output.score }}"}}\n'
    ),
    "choice inside a choice": (
        "inputs: {s: {type: string, enum: [info]}}\n"
        'nodes: [{id: a, agent: scanner, with: {repository_path: /r, severity: "{{ inputs.s }}"}}]\n'
    ),
    "optional choice": (
        'inputs: {s: {type: string}}\nnodes: [{id: a, agent: runner, with: {mode: "{{ inputs.s }}"}}]\n'
    ),
    "filters": (
        "nodes:\n  - {id: a, agent: scanner, with: {repository_path: /r}}\n"
        '  - {id: b, agent: runner, with: {text: "{{ nodes.a.output.note | default(1) | string }}"}}\n'
        "  - {id: c, agent: runner, when: \"{{ (nodes.a.output.findings | first).rule in ['x',"
        ' run.name] }}"}\n'
        '  - {id: d, agent: runner, when: "{{ not (nodes.a.output.findings | sort | length) == 1 }}"}\n'
        "  - {id: e, agent: runner, when: \"{{ nodes.a.output.labels.team == 'x' or"
        ' nodes.a.output.score >= 1 }}"}\n'
        "  - {id: f, agent: runner, when: \"{{ nodes.a.output.findings[0].severity == 'info' }}\"}\n"
    ),
    "nested templates": (
        'nodes: [{id: a, agent: runner, with: {steps: [{name: "{{ run.name }}", command: x, inside: []}],'
        ' options: {x: "{{ 1 }}"}}}]\n'
    ),
    "closed input": (
        "inputs: {r: {type: array, items: {type: string, enum: [/a]}}, o: {type: object,"
        " properties: {p: {type: string, enum: [/a]}}}, q: {type: string, enum: [/q]}}\n"
        "triggers: [{type: webhook, name: w, signature: hmac, secret: a/b, inputs: {r: '{{ trigger.r }}',"
        " o: '{{ trigger.o }}', q: '{{ trigger.q }}'}}]\n"
        'nodes:\n  - {id: a, agent: scanner, with: {repository_path: "{{ inputs.r[0] }}"}}\n'
        '  - {id: b, agent: scanner, with: {repository_path: "{{ inputs.o.p }}"}}\n'
        '  - {id: c, agent: scanner, with: {repository_path: "{{ inputs.q }}/{{ run.id }}"}}\n'
        '  - {id: d, agent: scanner, foreach: {in: "{{ inputs.r }}", as: r}, with:'
        ' {repository_path: "{{ r }}"}}\n'
    ),
    "vouched path": (
        "nodes:\n  - {id: a, agent: scanner, with: {repository_path: /r}}\n"
        '  - {id: b, agent: scanner, with: {repository_path: "{{ nodes.a.output.root }}/src"}}\n'
        "  - {id: c, agent: scanner, with: {repository_path: \"{{ nodes.a.status | default('x') }}\"}}\n"
    ),
    "literal items": (
        'nodes: [{id: a, agent: runner, foreach: {in: [1, "{{ run.id }}"], as: i}, with: {text:'
        ' "{{ i }}"}}]\n'
    ),
    "outputs of a foreach": (
        "nodes:\n  - {id: a, agent: scanner, foreach: {in: [x], as: i}, with: {repository_path: /r}}\n"
        '  - {id: b, agent: runner, with: {text: "{{ nodes.a.output[0].note }}"}}\n'
        '  - {id: c, agent: runner, with: {timeout: "{{ nodes.a.output | length }}"}}\n'
    ),
    "own output in verify": (
        "nodes: [{id: a, agent: scanner, with: {repository_path: /r}, verify: {agent: scanner,"
        ' with: {repository_path: "{{ nodes.a.output.root }}"}}}]\n'
    ),
    "free input of an operator": (
        'inputs: {r: {type: string}}\ntriggers: [{type: schedule, every: 1h, inputs: {r: "{{'
        ' trigger.scheduled_at }}"}}]\n'
        'nodes: [{id: a, agent: scanner, with: {repository_path: "{{ inputs.r }}"}}]\n'
    ),
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_check_accepts(body: str) -> None:
    assert check(body).nodes


@pytest.mark.parametrize(
    ("trigger", "topic"),
    [
        ("kafka, topic: t", "t"),
        ("nats, subject: a.b", "a.b"),
        ("redis, list: l", "l"),
        ("redis, channel: c", "c"),
    ],
)
def test_check_trusts_marked_topics(trigger: str, topic: str) -> None:
    body = (
        f"inputs: {{r: {{type: string}}}}\ntriggers: [{{type: {trigger}, inputs: {{r: '{{{{"
        f" trigger.r }}}}'}}}}]\n"
        'nodes: [{id: a, agent: scanner, with: {repository_path: "{{ inputs.r }}"}}]\n'
    )

    checked = check(body, replace(CATALOG, trusted_topics=frozenset({topic})))

    assert checked.exposed == {"r": "path"}
    with pytest.raises(Exception, match="give input 'r' an enum or allow"):
        check(body)


def test_exposed_inputs_reach_through_sub_workflows() -> None:
    outer = parse(
        'inputs: {a: {type: string}}\nnodes: [{id: s, workflow: sub-scan, with: {where: "{{'
        ' inputs.a }}", listed: x}}]\n'
    )

    assert exposed_inputs(SUB, CATALOG) == {"where": "path"}
    assert exposed_inputs(outer, CATALOG) == {"a": "path"}


def test_exposed_inputs_are_only_inputs() -> None:
    body = "nodes: [{id: a, agent: scanner, with: {repository_path: \"{{ trigger.x | default('') }}\"}}]\n"

    assert exposed_inputs(parse(body), CATALOG) == {}


def test_check_accepts_one_workflow_twice() -> None:
    middle = HEAD.replace("sample", "middle") + "nodes: [{id: a, workflow: leaf}, {id: b, workflow: leaf}]\n"
    leaf = HEAD.replace("sample", "leaf") + "nodes: [{id: a, agent: runner}, {id: b, workflow: gone}]\n"
    workflows = {name: parse_workflow(text, file=name) for name, text in (("middle", middle), ("leaf", leaf))}

    assert check("nodes: [{id: a, workflow: middle}]\n", replace(CATALOG, workflows=workflows)).nodes


def test_exposed_inputs_end_in_a_ring() -> None:
    one = parse_workflow(HEAD.replace("sample", "one") + "nodes: [{id: a, workflow: two}]\n", file="one")
    two = parse_workflow(HEAD.replace("sample", "two") + "nodes: [{id: a, workflow: one}]\n", file="two")
    catalog = Catalog({}, {"one": one, "two": two})
    knot = parse("nodes: [{id: a, agent: runner, needs: [b]}, {id: b, agent: runner, needs: [a]}]\n")

    assert exposed_inputs(one, catalog) == {}
    assert exposed_inputs(knot, CATALOG) == {}


def test_mermaid_draws_the_file() -> None:
    checked = check(FULL)

    drawing = to_mermaid(checked)

    assert drawing.startswith("flowchart TD\n")
    assert '  gate_fix{"approval"} --> node_fix\n' in drawing
    assert "  node_each --> gate_fix\n" in drawing
    assert "  node_fix -.-> gate_report\n" in drawing
    assert "  node_scan -. on failure .-> gate_alarm\n" in drawing
    assert "for each found" in drawing
    assert "workflow sub-scan" in drawing
    assert "  node_fix -. fails .-> branch_clean\n" in drawing
    assert "#62; 0 and inputs.deep" in drawing
    assert has_gate(checked.nodes["fix"])
    assert not has_gate(checked.nodes["scan"])


def test_mermaid_shortens_conditions() -> None:
    when = f"{{{{ '{'x' * 90}' == 'y' }}}}"
    body = f'nodes: [{{id: a, agent: scanner, with: {{repository_path: /r}}, when: "{when}"}}]\n'

    assert "xxx#8230;" in to_mermaid(check(body))


class Asked(BaseModel):
    name: str = Field(description="Whom.")


class Said(BaseModel):
    text: str = Field(description="What.")


@agent(name="greeter", type=AgentType.ANALYSIS, risk=Risk.AUTO, version="7", timeout_s=9, secrets=("github",))
async def greet(ctx: AgentContext, params: Asked) -> Said:
    """Greet."""
    return Said(text=f"{ctx.node_id} greets {params.name}")


def test_agent_info_describes_an_agent() -> None:
    assert isinstance(greet, Agent)

    info = AgentInfo.of(greet)

    assert (info.name, info.version, info.timeout_s, info.secrets, info.has_undo) == (
        "greeter",
        "7",
        9.0,
        ("github",),
        False,
    )
    assert info.input_schema["required"] == ["name"]
    assert info.output_schema["required"] == ["text"]


def test_check_takes_any_agent_without_properties() -> None:
    loose = replace(SCANNER, name="loose", input_schema={}, output_schema={"type": "object"})
    body = (
        "nodes:\n  - {id: a, agent: loose, with: {x: 1}}\n"
        '  - {id: b, agent: loose, with: {y: "{{ nodes.a.output.z }}"}}\n'
    )

    assert check(body, Catalog({"loose": loose})).graph.order == ("a", "b")


def test_check_of_twenty_nodes_is_quick() -> None:
    nodes = "".join(
        f"  - {{id: n{number}, agent: scanner, with: {{repository_path: /r, depth: 1}}}}\n"
        if number == 0
        else f"  - {{id: n{number}, agent: runner, when: '{{{{ nodes.n0.output.passed }}}}',"
        f" with: {{text: '{{{{ nodes.n{number - 1}.status }}}}'}}}}\n"
        for number in range(20)
    )
    start = time.perf_counter()

    checked = check(f"nodes:\n{nodes}")

    assert len(checked.nodes) == 20
    assert time.perf_counter() - start < 2.0
    assert canonical_json(checked.workflow)
