"""Scan a repository with semgrep, bandit and detect-secrets, offline and inside the sandbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from penstock.contracts import AgentContext, AgentType, Risk, Sandbox, agent
from penstock_agents.security_scanner import findings, reports, repository, scanners
from penstock_agents.security_scanner.models import (
    Finding,
    ScanInput,
    ScanOutput,
    Severity,
    Summary,
    Tool,
    ToolRun,
)
from penstock_agents.security_scanner.repository import Snapshot
from penstock_agents.security_scanner.scanners import Report

__all__ = ["Finding", "ScanInput", "ScanOutput", "Severity", "Summary", "Tool", "ToolRun", "scan"]


@agent(
    name="security-scanner",
    type=AgentType.ANALYSIS,
    risk=Risk.AUTO,
    capabilities=("static-analysis", "secret-detection"),
    timeout_s=900,
    idempotent=True,
)
async def scan(ctx: AgentContext, params: ScanInput) -> ScanOutput:
    """Find security problems and secrets in a git checkout.

    Scans the files that git tracks and those it neither tracks nor ignores, as they lie in the
    checkout. Fails when a scanner fails: a scan that is not complete is not a scan. What a secret
    says never leaves the sandbox; its file, line and kind do.
    """
    sandbox = ctx.sandbox()
    root = repository.locate(params.repository_path, ctx.workspace)
    listed = await repository.listing(sandbox, root)
    snapshot = await asyncio.to_thread(
        repository.take, root, listed.paths, ctx.workspace / "files", params.exclude, ctx.cancellation.is_set
    )
    ctx.logger.info("scan_started", files=len(snapshot.names), skipped=snapshot.skipped)
    done = await _run_all(
        list(dict.fromkeys(params.tools)), sandbox, snapshot, suppressions=params.suppressions
    )
    output = _output(params, snapshot, done, listed.commit)
    ctx.logger.info("scan_finished", **output.summary.model_dump(), passed=output.passed)
    await ctx.artifact(
        "security-scan-sarif",
        reports.sarif(output),
        media_type="application/sarif+json",
        description="Findings of the security scan as SARIF 2.1.0.",
    )
    await ctx.artifact(
        "security-scan", reports.markdown(output), description="Findings of the security scan."
    )
    return output


async def _run_all(
    tools: Sequence[Tool], sandbox: Sandbox, snapshot: Snapshot, *, suppressions: bool
) -> list[Report]:
    """Run the scanners side by side when memory allows all of them, else one by one."""
    if not snapshot.names:
        return [Report(tool, "", 0.0, ()) for tool in tools]
    needed_mb = sum(scanners.LIMITS[tool].memory_mb for tool in tools)
    gate = asyncio.Semaphore(len(tools) if _available_mb() > needed_mb else 1)

    async def one(tool: Tool) -> Report:
        async with gate:
            return await scanners.scan(tool, sandbox, snapshot.folder, suppressions=suppressions)

    tasks = [asyncio.create_task(one(tool)) for tool in tools]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _available_mb() -> int:
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)


def _output(params: ScanInput, snapshot: Snapshot, done: Sequence[Report], commit: str) -> ScanOutput:
    raw = [item for report in done for item in report.findings]
    raw += [scanners.not_scanned(name, done[0].tool.value, "it is too large") for name in snapshot.too_large]
    merged = [
        item
        for item in findings.merge(raw, snapshot.names, snapshot.folder)
        if item.severity.rank <= params.min_severity.rank
    ]
    return ScanOutput(
        findings=merged[: params.max_findings],
        summary=findings.summarise(merged),
        passed=not merged,
        files_scanned=len(snapshot.names),
        files_skipped=snapshot.skipped,
        tools={
            report.tool.value: ToolRun(
                version=report.version,
                duration_s=round(report.duration_s, 3),
                findings=len(report.findings),
            )
            for report in done
        },
        commit=commit,
    )
