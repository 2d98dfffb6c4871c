"""Raw findings become the list that people see: merged, fingerprinted, the worst first."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from penstock_agents.security_scanner.models import Finding, Severity, Summary
from penstock_agents.security_scanner.scanners import Raw

_STRING = re.compile(r"""("{3}|'{3}|["'`])(?:\\.|(?!\1).)*?(?:\1|$)""")
_WORD = re.compile(r"[A-Za-z_][A-Za-z_.]{0,39}(?![A-Za-z_0-9])")
_CODE = frozenset({".py", ".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".go", ".java"})


def merge(raw: Iterable[Raw], names: Mapping[str, str], folder: Path) -> list[Finding]:
    """Join what several scanners say of one place, and give each finding its identity.

    Args:
        names: Path in the copy -> path as shown to people.
        folder: The copy.
    """
    places: dict[tuple[str, int, str], list[Raw]] = {}
    for item in raw:
        places.setdefault((item.file, item.line, item.kind), []).append(item)
    chosen = [(min(group, key=_weight), group) for group in places.values()]
    chosen.sort(key=lambda pair: (pair[0].file, pair[0].line, pair[0].rule))
    sources = _Sources(folder)
    seen: Counter[str] = Counter()
    findings: list[Finding] = []
    for best, group in chosen:
        file = names.get(best.file, best.file)
        identity = "\0".join((best.rule, file, sources.context(best)))
        seen[identity] += 1
        findings.append(_finding(best, group, file, f"{identity}\0{seen[identity]}"))
    return sorted(findings, key=lambda item: (item.severity.rank, item.file, item.line, item.rule))


def _weight(item: Raw) -> tuple[bool, int, str]:
    """Order findings of one place by how much they tell: our own words first, then the worst."""
    return item.rule.startswith("bandit."), item.severity.rank, item.rule


def _finding(best: Raw, group: Sequence[Raw], file: str, identity: str) -> Finding:
    return Finding(
        rule=best.rule,
        severity=min((item.severity for item in group), key=lambda severity: severity.rank),
        file=file,
        line=best.line,
        message=best.message,
        fingerprint=hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:32],
        tool=best.tool,
        also=sorted({item.tool for item in group} - {best.tool}),
    )


class _Sources:
    """Gives the text around findings, with everything that may be a secret left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = ""
        self.lines: list[str] = []

    def context(self, item: Raw) -> str:
        """Return what identifies the place when lines move; for a secret only its number counts."""
        if item.kind == "secret" or not item.rule.startswith(("py-", "js-", "go-", "java-", "bandit.")):
            return ""
        file = self.folder / item.file
        if file.suffix not in _CODE or not file.is_file():
            return ""
        if item.file != self.name:
            self.name = item.file
            self.lines = file.read_text("utf-8", "replace").splitlines()
        return normal(self.lines[item.line - 1 : item.end_line])


def normal(lines: Sequence[str]) -> str:
    """Reduce code to its names: no strings, no comments, no numbers, no white space."""
    text = _STRING.sub('""', "\n".join(lines))
    text = re.sub(r"(#|//).*", "", text)
    return " ".join(_WORD.findall(text))


def summarise(findings: Iterable[Finding]) -> Summary:
    """Count by severity."""
    counts = Counter(item.severity for item in findings)
    return Summary(
        critical=counts[Severity.CRITICAL],
        warning=counts[Severity.WARNING],
        info=counts[Severity.INFO],
        total=counts.total(),
    )
