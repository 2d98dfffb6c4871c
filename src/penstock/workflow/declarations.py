"""Checks of what a file declares: names, needs, inputs; everything but expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.contracts import AgentType, Risk
from penstock.workflow.catalog import AgentInfo, Catalog
from penstock.workflow.compiled import Compiled, Report
from penstock.workflow.inputs import input_schema
from penstock.workflow.messages import find_errors, find_schema_error
from penstock.workflow.scopes import ROOTS
from penstock.workflow.source import Path
from penstock.workflow.spec import InputSpec, Workflow
from penstock.workflow.suggestions import suggest


@dataclass(frozen=True)
class Declarations:
    """Checks the declarations of one file."""

    workflow: Workflow
    catalog: Catalog
    report: Report
    nodes: Sequence[Compiled]

    def check(self) -> None:
        """Report every mistake."""
        for name, spec in self.workflow.inputs.items():
            self._check_input(("inputs", name), spec)
        self._check_ids()
        for node in self.nodes:
            self._check_agents(node)
            self._check_needs(node)
            self._check_on_error(node)
            self._check_item_name(node)
            self._check_per(node)
            self._check_groups(node)
        self._check_branches()

    def _check_input(self, path: Path, spec: InputSpec) -> None:
        schema = input_schema(spec)
        if problem := find_schema_error(schema):
            self.report.add(path, problem)
            return
        if spec.default is not None:
            for inner, message in find_errors(spec.default, schema):
                self.report.add((*path, "default", *inner), message)
        kind = (spec.items or {}).get("type") if spec.type == "array" else spec.type
        if spec.allow and kind != "string":
            self.report.add((*path, "allow"), "allow is for a text or a list of texts")

    def _check_ids(self) -> None:
        seen: dict[str, Compiled] = {}
        for node in self.nodes:
            name = node.spec.id
            if name in seen:
                line = self.report.source.problem((*seen[name].path, "id"), "").line
                self.report.add((*node.path, "id"), f"node {name!r} is already given in line {line}")
            seen.setdefault(name, node)

    def _check_agents(self, node: Compiled) -> None:
        spec, path = node.spec, node.path
        if spec.workflow is not None:
            self._check_sub_workflow((*path, "workflow"), spec.workflow)
        if spec.agent is not None and (info := self._agent((*path, "agent"), spec.agent)):
            self._check_agent(node, info)
        if spec.verify is not None:
            info = self._agent((*path, "verify", "agent"), spec.verify.agent)
            if info and info.risk != Risk.AUTO:
                message = f"agent {info.name!r} needs an approval, so it cannot verify"
                self.report.add((*path, "verify", "agent"), message)

    def _agent(self, path: Path, name: str) -> AgentInfo | None:
        info = self.catalog.agents.get(name)
        if info is None:
            self.report.add(path, f"unknown agent {name!r}{suggest(name, self.catalog.agents)}")
        return info

    def _check_agent(self, node: Compiled, info: AgentInfo) -> None:
        spec, path = node.spec, node.path
        for name in spec.blocks:
            if info.secrets and name not in info.secrets:
                message = f"agent {info.name!r} takes no block {name!r}{suggest(name, info.secrets)}"
                self.report.add((*path, "blocks", name), message, key=True)
        if spec.undo == "automatic" and info.has_undo is False:
            self.report.add((*path, "undo"), f"agent {info.name!r} has no undo")
        if spec.cache and info.type != AgentType.ANALYSIS:
            self.report.add((*path, "cache"), f"agent {info.name!r} changes things; its output is not cached")

    def _check_sub_workflow(self, path: Path, name: str) -> None:
        if name == self.workflow.name:
            self.report.add(path, f"workflow {name!r} runs itself")
        elif name not in self.catalog.workflows:
            self.report.add(path, f"unknown workflow {name!r}{suggest(name, self.catalog.workflows)}")
        elif ring := self._ring(name):
            self.report.add(path, f"workflows run each other: {' -> '.join(ring)}")

    def _ring(self, name: str) -> tuple[str, ...]:
        """Find a way through sub-workflows back to this one."""
        waiting: list[tuple[str, ...]] = [(self.workflow.name, name)]
        seen: set[str] = set()
        while waiting:
            trail = waiting.pop()
            current = self.catalog.workflows.get(trail[-1])
            if trail[-1] == self.workflow.name:
                return trail
            if current is not None and trail[-1] not in seen:
                seen.add(trail[-1])
                waiting.extend((*trail, sub) for sub in sub_workflows(current))
        return ()

    def _check_needs(self, node: Compiled) -> None:
        peers = [other.spec.id for other in self.nodes if other.branch == node.branch]
        everyone = {other.spec.id for other in self.nodes}
        for index, need in enumerate(node.spec.needs):
            path = (*node.path, "needs", index)
            if need == node.spec.id:
                self.report.add(path, f"node {need!r} needs itself")
            elif need not in everyone:
                others = [name for name in peers if name != node.spec.id]
                self.report.add(path, f"unknown node {need!r}{suggest(need, others)}")
            elif need not in peers:
                self.report.add(path, f"node {need!r} is not in the same branch")

    def _check_on_error(self, node: Compiled) -> None:
        choice = node.spec.on_error
        known = ["fail", "continue"] if node.branch else ["fail", "continue", *self.workflow.error_branches]
        if choice not in known:
            message = f"unknown error branch {choice!r}{suggest(choice, known)}"
            if node.branch:
                message = "a node of an error branch can only fail or continue"
            self.report.add((*node.path, "on_error"), message)

    def _check_item_name(self, node: Compiled) -> None:
        foreach = node.spec.foreach
        if foreach and foreach.as_ in ROOTS:
            self.report.add((*node.path, "foreach", "as"), f"{foreach.as_!r} has a meaning already")

    def _check_per(self, node: Compiled) -> None:
        if node.spec.approval and node.spec.approval.per == "node" and node.spec.foreach is None:
            self.report.add((*node.path, "approval", "per"), "per: node is for a node with foreach")

    def _check_groups(self, node: Compiled) -> None:
        approval, known = node.spec.approval, self.catalog.groups
        if approval is None or known is None:
            return
        lists: list[tuple[Path, Sequence[str]]] = [(("require", "from"), approval.require.from_)]
        if approval.escalate:
            lists.append((("escalate", "to"), approval.escalate.to))
        for path, principals in lists:
            for index, principal in enumerate(principals):
                kind, _, name = principal.partition(":")
                if kind == "group" and name not in known:
                    message = f"unknown group {name!r}{suggest(name, known)}"
                    self.report.add((*node.path, "approval", *path, index), message)

    def _check_branches(self) -> None:
        used = {node.spec.on_error for node in self.nodes}
        for name in self.workflow.error_branches:
            path: Path = ("error_branches", name)
            if name in ("fail", "continue"):
                self.report.add(path, f"{name!r} has a meaning already", key=True)
            elif name not in used:
                self.report.add(path, f"no node has on_error: {name}", key=True)


def sub_workflows(workflow: Workflow) -> list[str]:
    """List the workflows that the nodes of one run, error branches included."""
    branches = [node for branch in workflow.error_branches.values() for node in branch]
    return [node.workflow for node in (*workflow.nodes, *branches) if node.workflow]
