"""What the security scanner takes and gives."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from penstock.contracts import Slot, sensitive


class Severity(StrEnum):
    """How bad a finding is."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Tool(StrEnum):
    """A scanner."""

    SEMGREP = "semgrep"
    BANDIT = "bandit"
    SECRETS = "detect-secrets"


Glob = Annotated[str, Field(min_length=1, max_length=500)]


class ScanInput(BaseModel):
    """Which repository to scan, and how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"repository_path": "/srv/repositories/shop"},
                {"repository_path": "/srv/repositories/shop", "tools": ["semgrep"], "exclude": ["tests/*"]},
            ]
        },
    )

    repository_path: str = sensitive(
        Slot.PATH, description="Absolute path of a git checkout on the worker.", min_length=1, max_length=4096
    )
    tools: list[Tool] = Field(
        default_factory=lambda: list(Tool), min_length=1, max_length=3, description="Scanners to run."
    )
    exclude: list[Glob] = Field(
        default_factory=list[Glob],
        max_length=100,
        description="Shell patterns of files or folders to leave out; * matches / as well.",
    )
    min_severity: Severity = Field(
        default=Severity.WARNING, description="Least severe finding that is reported and counted."
    )
    max_findings: int = Field(
        default=1000, ge=1, le=10_000, description="Most findings to list; the summary counts all of them."
    )
    suppressions: bool = Field(
        default=True, description="Whether comments such as nosec may suppress a finding."
    )


class Finding(BaseModel):
    """One place in the repository that needs a look."""

    rule: str = Field(description="Identifier of the rule.")
    severity: Severity = Field(description="How bad it is.")
    file: str = Field(description="Path inside the repository.")
    line: int = Field(ge=1, description="Line, counted from 1.")
    message: str = Field(description="What is wrong and what to do; never holds the line itself.")
    fingerprint: str = Field(description="Identity that survives moved lines.")
    tool: str = Field(description="Scanner that found it.")
    also: list[str] = Field(default_factory=list[str], description="Other scanners that found the same.")


class Summary(BaseModel):
    """How many findings there are."""

    critical: int = Field(default=0, ge=0, description="Critical findings.")
    warning: int = Field(default=0, ge=0, description="Warnings.")
    info: int = Field(default=0, ge=0, description="Findings that only inform.")
    total: int = Field(default=0, ge=0, description="All findings.")


class ToolRun(BaseModel):
    """How one scanner ran."""

    version: str = Field(description="Version of the scanner; empty when it had nothing to scan.")
    duration_s: float = Field(ge=0, description="Seconds it took.")
    findings: int = Field(ge=0, description="Findings before duplicates were merged.")


class ScanOutput(BaseModel):
    """What was found."""

    findings: list[Finding] = Field(description="Findings, the worst first.")
    summary: Summary = Field(description="Counts by severity, of all findings at or above min_severity.")
    passed: bool = Field(description="Whether there is no finding at or above min_severity.")
    files_scanned: int = Field(ge=0, description="Files given to the scanners.")
    files_skipped: int = Field(ge=0, description="Binary files and links, which are not scanned.")
    tools: dict[str, ToolRun] = Field(description="How each scanner ran, by name.")
    commit: str = Field(description="Commit that is checked out; empty when there is none yet.")
