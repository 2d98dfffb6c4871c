"""The three scanners: how each is called, offline, and how its report becomes findings.

Reports quote the code they are about, and that code may be a secret. So nothing is taken over but
rule, file, line and numbers; messages are our own words or built from the rule's name.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.contracts import AgentFailed, Limits, Sandbox, ToolCall, ToolResult
from penstock.errors import ToolFailed, ToolKilled
from penstock_agents.security_scanner.models import Severity, Tool

RULES = Path(__file__).with_name("rules")
NOT_SCANNED = "penstock.not-scanned"
_SRC = "/src"
_BANDIT_SEVERITY = {"HIGH": Severity.CRITICAL, "MEDIUM": Severity.WARNING}
_SEMGREP_SEVERITY = {"ERROR": Severity.CRITICAL, "WARNING": Severity.WARNING}
_HARDCODED = {"B105", "B106", "B107"}
_GUESSES = ("High Entropy", "Secret Keyword")
LIMITS: Mapping[Tool, Limits] = {
    Tool.SEMGREP: Limits(timeout_s=600, memory_mb=2048, processes=32, output_mb=64),
    Tool.BANDIT: Limits(timeout_s=300, memory_mb=768, processes=8, output_mb=64),
    Tool.SECRETS: Limits(timeout_s=300, memory_mb=768, processes=32, output_mb=64),
}


@dataclass(frozen=True)
class Raw:
    """One finding of one scanner, before merging."""

    rule: str
    severity: Severity
    file: str
    """Path in the copy."""
    line: int
    end_line: int
    message: str
    tool: str
    kind: str
    """What it is about, the same for every scanner: a CWE or `secret`."""


@dataclass(frozen=True)
class Report:
    """What one scanner said."""

    tool: Tool
    version: str
    duration_s: float
    findings: tuple[Raw, ...]


async def scan(tool: Tool, sandbox: Sandbox, folder: Path, *, suppressions: bool) -> Report:
    """Run one scanner over the copy.

    Raises:
        AgentFailed: It failed, was killed or gave no readable report; never quotes what it printed.
    """
    run: Callable[[Sandbox, Path, bool], Awaitable[Report]] = {
        Tool.SEMGREP: _semgrep,
        Tool.BANDIT: _bandit,
        Tool.SECRETS: _secrets,
    }[tool]
    try:
        return await run(sandbox, folder, suppressions)
    except ToolKilled as error:
        raise AgentFailed(f"the scan is not complete: {error.message}", details=error.details) from None
    except ToolFailed as error:
        code = error.details.get("exit_code")
        raise AgentFailed(f"{tool.value} failed with exit code {code}", details=error.details) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = type(error).__name__
        raise AgentFailed(f"{tool.value} gave a report that cannot be read ({reason})") from None


async def _run(
    tool: Tool, sandbox: Sandbox, arguments: list[str], readonly: Mapping[Path, str], env: Mapping[str, str]
) -> ToolResult:
    call = ToolCall(
        [tool.value, *arguments], readonly=readonly, cwd=_SRC, env=env, limits=LIMITS[tool], ok_codes=(0,)
    )
    return await sandbox.run(call)


async def _semgrep(sandbox: Sandbox, folder: Path, suppressions: bool) -> Report:
    arguments = [
        *("scan", "--experimental", "--config", "/rules", "--json", "--quiet", "--no-rewrite-rule-ids"),
        *("--metrics=off", "--disable-version-check", "--no-git-ignore", "--x-ignore-semgrepignore-files"),
        *("--jobs=2", "--timeout=20", "--max-target-bytes=0"),
        *([] if suppressions else ["--disable-nosem"]),
        ".",
    ]
    result = await _run(
        Tool.SEMGREP,
        sandbox,
        arguments,
        {folder: _SRC, RULES: "/rules"},
        {"SEMGREP_SEND_METRICS": "off", "SEMGREP_ENABLE_VERSION_CHECK": "0", "SEMGREP_USER_HOME": "/tmp"},  # noqa: S108  private to the sandbox
    )
    data = json.loads(result.stdout)
    findings = [*map(_from_semgrep, data["results"]), *_semgrep_errors(data["errors"])]
    return Report(Tool.SEMGREP, data["version"], result.duration_s, tuple(findings))


def _from_semgrep(item: Mapping[str, Any]) -> Raw:
    extra = item["extra"]
    return Raw(
        rule=item["check_id"],
        severity=_SEMGREP_SEVERITY.get(extra["severity"], Severity.INFO),
        file=_path(item["path"]),
        line=int(item["start"]["line"]),
        end_line=int(item["end"]["line"]),
        message=extra["message"],
        tool=Tool.SEMGREP.value,
        kind=extra["metadata"]["cwe"],
    )


def _semgrep_errors(errors: list[Mapping[str, Any]]) -> Iterator[Raw]:
    """Turn files that were not read to the end into findings; anything else ends the scan."""
    for error in errors:
        kind = error["type"] if isinstance(error["type"], str) else str(error["type"][0])
        if not error.get("path"):
            raise AgentFailed(f"semgrep failed: {_words(kind)}")
        partial = kind == "PartialParsing"
        severity = Severity.INFO if partial else Severity.WARNING
        yield not_scanned(_path(error["path"]), Tool.SEMGREP.value, _words(kind), severity)


async def _bandit(sandbox: Sandbox, folder: Path, suppressions: bool) -> Report:
    mounts = {folder: _SRC}
    # A repository may hold a .bandit file that switches tests off; a named one is used instead.
    arguments = ["-q", "-r", ".", "-f", "json", "--exit-zero", "--ini", "/dev/null", "-x", "/nothing"]
    arguments += [] if suppressions else ["--ignore-nosec"]
    result = await _run(Tool.BANDIT, sandbox, arguments, mounts, {})
    version = await _run(Tool.BANDIT, sandbox, ["--version"], mounts, {})
    data = json.loads(result.stdout)
    findings = [
        *map(_from_bandit, data["results"]),
        *(not_scanned(_path(item["filename"]), Tool.BANDIT.value, "syntax error") for item in data["errors"]),
    ]
    number = version.stdout.split()[1].decode("ascii", "replace")
    return Report(Tool.BANDIT, number, result.duration_s + version.duration_s, tuple(findings))


def _from_bandit(item: Mapping[str, Any]) -> Raw:
    test = str(item["test_id"])
    severity = _BANDIT_SEVERITY.get(item["issue_severity"], Severity.INFO)
    if severity is Severity.CRITICAL and item["issue_confidence"] == "LOW":
        severity = Severity.WARNING
    name = str(item["test_name"])
    if name == "blacklist":  # the name of the listed call stands in the address of its page
        name = re.sub(r"^.*#b\d+-", "", str(item["more_info"]))
    secret = test in _HARDCODED
    return Raw(
        rule=f"bandit.{test}",
        severity=Severity.WARNING if secret else severity,
        file=_path(item["filename"]),
        line=int(item["line_number"]),
        end_line=max(map(int, item["line_range"]), default=int(item["line_number"])),
        message="A password is written in the code; keep it in a secret store."
        if secret
        else f"Bandit's test {test}: {_words(name)}.",
        tool=Tool.BANDIT.value,
        kind="secret" if secret else f"CWE-{item.get('issue_cwe', {}).get('id', test)}",
    )


async def _secrets(sandbox: Sandbox, folder: Path, suppressions: bool) -> Report:
    mounts = {folder: _SRC, RULES / "detectors.txt": "/detectors.py"}
    arguments = ["scan", "--all-files", "--no-verify", "-p", "/detectors.py"]
    if not suppressions:
        arguments += ["--disable-filter", "detect_secrets.filters.allowlist.is_line_allowlisted"]
    result = await _run(Tool.SECRETS, sandbox, [*arguments, "."], mounts, {})
    data = json.loads(result.stdout)
    lists = cast("Mapping[str, list[Mapping[str, Any]]]", data["results"])
    found = [_from_secret(file, item) for file, items in lists.items() for item in items]
    digests = await asyncio.to_thread(_lines_of_digests, folder, {item.file for item in found})
    findings = tuple(item for item in found if not _is_digest(item, digests))
    return Report(Tool.SECRETS, data["version"], result.duration_s, findings)


def _lines_of_digests(folder: Path, files: Iterable[str]) -> set[tuple[str, int]]:
    """Find the lines whose only random text is a checksum that names its algorithm, as in lock files."""
    found: set[tuple[str, int]] = set()
    for name in files:
        lines = (folder / name).read_text("utf-8", "replace").splitlines()
        found.update(
            (name, number)
            for number, line in enumerate(lines, 1)
            if _DIGEST.search(line) and not _RANDOM.search(_DIGEST.sub("", line))
        )
    return found


def _is_digest(item: Raw, digests: set[tuple[str, int]]) -> bool:
    """Whether a guess at a secret, made from its randomness alone, is a checksum."""
    return item.severity is Severity.WARNING and (item.file, item.line) in digests


def _from_secret(file: str, item: Mapping[str, Any]) -> Raw:
    kind = str(item["type"])
    guess = any(word in kind for word in _GUESSES)
    line = int(item["line_number"])
    return Raw(
        rule=f"secret.{re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')}",
        severity=Severity.WARNING if guess else Severity.CRITICAL,
        file=_path(file),
        line=line,
        end_line=line,
        message=f"This looks like a secret ({kind}); revoke it and keep it in a secret store.",
        tool=Tool.SECRETS.value,
        kind="secret",
    )


def not_scanned(file: str, tool: str, reason: str, severity: Severity = Severity.WARNING) -> Raw:
    """Make the finding that stands for a file which was not read to its end."""
    message = f"{tool} could not read all of this file: {reason}."
    return Raw(NOT_SCANNED, severity, file, 1, 1, message, tool, f"{NOT_SCANNED}.{tool}")


_DIGEST = re.compile(
    r"\bsha(?:1|224|256|384|512)[:=-](?:[0-9a-f]{40,128}(?![0-9a-fA-F])|[A-Za-z0-9+/]{27,86}={0,2})"
)
_RANDOM = re.compile(r"[A-Za-z0-9+/_=-]{20,}")


def _path(path: str) -> str:
    return path.removeprefix(_SRC + "/").removeprefix("./")


def _words(name: str) -> str:
    """Turn an identifier into words, and nothing but words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+", " ", name)
    return spaced.strip().lower()[:80]
