"""The same findings as SARIF for machines and as Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from penstock_agents.security_scanner.models import Finding, ScanOutput, Severity

_LEVEL = {Severity.CRITICAL: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_SHOWN = 50
_SPECIAL = str.maketrans(
    {letter: f"\\{letter}" for letter in "\\`*_{}[]()#+-.!|~"} | {"<": "&lt;", "&": "&amp;"}
)


def sarif(output: ScanOutput) -> str:
    """Write SARIF 2.1.0, one run per scanner."""
    runs = [_run(name, output) for name in output.tools]
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": runs,
    }
    return json.dumps(document, ensure_ascii=False)


def _run(name: str, output: ScanOutput) -> dict[str, Any]:
    findings = [item for item in output.findings if item.tool == name]
    rules = list(dict.fromkeys(item.rule for item in findings))
    driver: dict[str, Any] = {"name": name, "rules": [{"id": rule} for rule in rules]}
    if output.tools[name].version:
        driver["version"] = output.tools[name].version
    return {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"SRCROOT": {"description": {"text": "Root of the repository."}}},
        "properties": {"commit": output.commit},
        "results": [_result(item, rules.index(item.rule)) for item in findings],
    }


def _result(item: Finding, index: int) -> dict[str, Any]:
    place = {
        "artifactLocation": {"uri": quote(item.file), "uriBaseId": "SRCROOT"},
        "region": {"startLine": item.line},
    }
    return {
        "ruleId": item.rule,
        "ruleIndex": index,
        "level": _LEVEL[item.severity],
        "message": {"text": item.message},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"penstock/v1": item.fingerprint},
    }


def markdown(output: ScanOutput) -> str:
    """Write a short summary; names from the repository are escaped."""
    total = output.summary
    verdict = "passed" if output.passed else "found problems"
    lines = [
        f"# Security scan {verdict}",
        "",
        f"{total.critical} critical, {total.warning} warnings, {total.info} of information"
        f" in {output.files_scanned} files"
        + (f" at commit `{output.commit[:12]}`" if output.commit else "")
        + ".",
        "",
        *_table(output.findings),
        *(f"- {name} {run.version}: {run.duration_s:.1f} s" for name, run in output.tools.items()),
    ]
    return "\n".join(lines) + "\n"


def _table(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    rows = [
        f"| {item.severity.value} | {escape(item.file)}:{item.line}"
        f" | {escape(item.rule)} | {escape(item.message)} |"
        for item in findings[:_SHOWN]
    ]
    more = [f"and {len(findings) - _SHOWN} more", ""] if len(findings) > _SHOWN else []
    return ["| severity | place | rule | what |", "|---|---|---|---|", *rows, "", *more]


def escape(text: str) -> str:
    """Make text show as itself in Markdown."""
    return text.translate(_SPECIAL)
