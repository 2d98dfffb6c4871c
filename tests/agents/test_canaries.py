"""Secrets of many kinds are planted in a repository; nothing of them may come out of a scan."""

from __future__ import annotations

import base64
import json
import logging
import random
import string
from collections.abc import Mapping

import pytest

from penstock.contracts import ToolCall, ToolResult
from penstock.errors import AgentFailed, ToolFailed, ToolKilled
from penstock.testing import AgentHarness
from penstock_agents.security_scanner import ScanOutput, scan
from support.checkouts import Repository

_PIECE = 8
_random = random.Random(20)  # noqa: S311  the same canaries every time


def _word(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(_random.choices(letters, k=length))


_UPPER = string.ascii_uppercase + string.digits
_JWT = ".".join(base64.urlsafe_b64encode(_word(30).encode()).decode().strip("=") for _ in range(3))
CANARIES: Mapping[str, str] = {
    "aws": "AKIA" + _word(16, _UPPER),
    "aws_secret": _word(40),
    "github": "ghp_" + _word(36),
    "gitlab": "glpat-" + _word(20),
    "slack": f"xoxb-{_word(12, string.digits)}-{_word(12, string.digits)}-{_word(24)}",
    "stripe": "sk_live_" + _word(24),
    "google": "AIza" + _word(35),
    "jwt": "eyJ" + _JWT,
    "password": _word(16),
    "address": _word(20),
    "bearer": _word(32),
    "hex": _word(40, "0123456789abcdef"),
    "key": _word(64),
    "argument": _word(18),
    "shell": _word(22),
    "broken": _word(26),
}
_HEADER = "-----BEGIN RSA PRIVATE KEY-----"
FILES = {
    "settings.py": f"""
import hashlib, requests
PASSWORD = "{CANARIES["password"]}"
AWS = "{CANARIES["aws"]}"
AWS_SECRET_ACCESS_KEY = "{CANARIES["aws_secret"]}"
requests.get("https://example.org", headers={{"Authorization": "Bearer {CANARIES["bearer"]}"}}, verify=False)
hashlib.md5(b"{CANARIES["hex"]}")
def connect(password="{CANARIES["argument"]}"):
    eval("{CANARIES["key"]}" + password)
cursor.execute("SELECT '{CANARIES["jwt"]}' FROM t WHERE a = '%s'" % password)
""",  # noqa: S608  it is meant to be bad
    "config.yaml": "".join(f"{name}: {CANARIES[name]}\n" for name in ("github", "gitlab", "slack")),
    "run.sh": f"curl -k -u admin:{CANARIES['shell']} https://example.org | sh\neval $X\n",
    "app.js": f'const stripe = "{CANARIES["stripe"]}"; cp.exec("mysql -p {CANARIES["google"]} " + x);\n',
    ".env": f"DATABASE_URL=postgres://app:{CANARIES['address']}@db/app\n",
    "key.pem": f"{_HEADER}\n{CANARIES['key']}\n-----END RSA PRIVATE KEY-----\n",
    "broken.py": f'token = "{CANARIES["broken"]}\ndef f(:\n',
    "broken.js": f'const token = "{CANARIES["broken"]}";\nfunction ( {{\n',
}


def _pieces() -> set[str]:
    return {
        canary[start : start + _PIECE]
        for canary in CANARIES.values()
        for start in range(len(canary) - _PIECE + 1)
    }


def _leaks(*texts: str) -> list[str]:
    return sorted(piece for piece in _pieces() if any(piece in text for text in texts))


@pytest.mark.usefixtures("tools_env")
async def test_scan_tells_nothing_of_the_secrets_it_finds(
    repository: Repository, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    repository.commit(FILES)
    harness = AgentHarness(scan)

    output: ScanOutput = await harness.run({"repository_path": str(repository.root), "min_severity": "info"})

    artifacts = [artifact.data for artifact in harness.artifacts]
    printed = str(capfd.readouterr())
    assert _leaks(output.model_dump_json(), repr(harness.logs), caplog.text, printed, *artifacts) == []
    found = {item.file for item in output.findings}
    assert found >= FILES.keys()


@pytest.mark.usefixtures("tools_env")
async def test_scan_finds_each_kind_of_secret(repository: Repository) -> None:
    repository.commit(FILES)

    output: ScanOutput = await AgentHarness(scan).run(
        {"repository_path": str(repository.root), "tools": ["detect-secrets"]}
    )

    rules = {item.rule for item in output.findings}
    assert {
        "secret.aws-access-key",
        "secret.gitlab-token",
        "secret.private-key",
        "secret.github-token",
    } <= rules
    assert {"secret.basic-auth-credentials", "secret.google-api-key", "secret.slack-token"} <= rules


class Leaky:
    """A sandbox whose scanner prints the secret wherever it can."""

    name = "none"

    def __init__(self, secret: str, how: str) -> None:
        self.secret = secret
        self.how = how

    async def run(self, call: ToolCall) -> ToolResult:
        if call.argv[0] == "git":
            return ToolResult(0, b"settings.py\0" if "ls-files" in call.argv else b"", b"", 0.0)
        if self.how == "failed":
            raise ToolFailed(f"semgrep failed near {self.secret}", details={"exit_code": 2})
        if self.how == "killed":
            raise ToolKilled("semgrep was killed: it ran longer than 1 s")
        error = {"type": "Fatal", "message": self.secret}
        text = self.secret if self.how == "text" else json.dumps({"results": [], "errors": [error]})
        return ToolResult(0, text.encode(), self.secret.encode(), 0.0)


@pytest.mark.parametrize("how", ["failed", "killed", "text", "error"])
async def test_failed_scan_tells_nothing_either(how: str, repository: Repository) -> None:
    repository.write(FILES)
    harness = AgentHarness(scan, sandbox=Leaky(CANARIES["key"], how))

    with pytest.raises(AgentFailed) as caught:
        await harness.run({"repository_path": str(repository.root), "tools": ["semgrep"]})

    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert _leaks(str(error), repr(error.details), repr(harness.logs)) == []
