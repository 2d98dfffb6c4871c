"""Signing in from the command line, at a real gateway."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from cli.commands import ME, penstock
from penstock.approvals.passwords import check_password
from support.stack import StackUnderTest

PEOPLE = "apiVersion: penstock/v1\nkind: People\nusers:\n  mallory: {role: approver}\n"
PASSWORD = "correct horse battery"  # noqa: S105  of nobody


def gateway(stack: StackUnderTest) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{stack.settings.port}")


@pytest.mark.integration
async def test_link_signs_in_once(stack: StackUnderTest) -> None:
    exit_code, link, message = await penstock(stack, "login")

    address = httpx.URL(link.strip())
    token = address.params["token"]
    with gateway(stack) as client:
        shown = client.get(address)
        entered = client.post("/login/link", data={"token": token})
        me = client.get("/api/me").json()
        again = client.post("/login/link", data={"token": token})

    assert exit_code == 0
    assert link.count("\n") == 1
    assert f"signs in {ME}; good once, until " in message
    assert (address.host, address.port) == ("127.0.0.1", stack.settings.port)
    assert f"Sign in as {ME}" in shown.text
    assert (entered.status_code, again.status_code) == (303, 401)
    assert (me["person"], me["via"]) == (ME, "link")


@pytest.mark.integration
async def test_token_is_for_programs(stack: StackUnderTest) -> None:
    exit_code, output, _ = await penstock(stack, "login", "--print-token", "--json")

    printed = json.loads(output)
    with gateway(stack) as client:
        me = client.get("/api/me", headers={"Authorization": f"Bearer {printed['token']}"}).json()

    assert exit_code == 0
    assert printed.keys() == {"person", "token", "expires_at"}
    assert (me["person"], me["approver"], me["expires_at"]) == (ME, True, printed["expires_at"])


@pytest.mark.integration
async def test_address_is_the_public_one(stack: StackUnderTest) -> None:
    elsewhere = StackUnderTest(
        stack.pid,
        {**stack.environment, "PENSTOCK_GATEWAY__URL": "https://Penstock.example"},
        stack.settings,
    )

    _, output, _ = await penstock(elsewhere, "login", "--json")

    assert json.loads(output)["url"].startswith("https://Penstock.example/login/link?token=")


@pytest.mark.integration
@pytest.mark.parametrize("option", ["--json", "--print-token"])
async def test_user_whom_the_people_file_does_not_name_is_refused(
    stack: StackUnderTest, tmp_path: Path, option: str
) -> None:
    people = tmp_path / "people.yaml"
    people.write_text(PEOPLE)
    closed = StackUnderTest(stack.pid, {**stack.environment, "PENSTOCK_PEOPLE": str(people)}, stack.settings)

    refused = await penstock(closed, "login", option)
    people.write_text(PEOPLE.replace("mallory", ME))
    let_in = await penstock(closed, "login", option)

    assert (refused[0], let_in[0]) == (1, 0)
    assert refused[2] == f"{ME} is not among the people in {people}; add the user there\n"


@pytest.mark.integration
async def test_people_file_with_mistakes_is_told(stack: StackUnderTest, tmp_path: Path) -> None:
    people = tmp_path / "people.yaml"
    people.write_text(PEOPLE.replace("approver", "approvr"))
    wrong = StackUnderTest(stack.pid, {**stack.environment, "PENSTOCK_PEOPLE": str(people)}, stack.settings)

    exit_code, output, message = await penstock(wrong, "login")

    assert (exit_code, output) == (2, "")
    assert message.startswith(f"{people}:4:")


def typed(*lines: str) -> tuple[int, str, str]:
    """Type lines at a terminal; give exit code, standard output and what the terminal showed."""
    terminal, other_end = pty.openpty()
    environment: Mapping[str, str] = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        [sys.executable, "-m", "penstock.cli.main", "people", "password"],
        stdin=other_end,
        stdout=subprocess.PIPE,
        stderr=other_end,
        env=environment,
        text=True,
        start_new_session=True,
    ) as process:
        os.close(other_end)
        shown = b""
        for line in lines:
            while not shown.endswith(b": "):  # the last blank comes when nothing is echoed any more
                shown += os.read(terminal, 1024)
            os.write(terminal, f"{line}\n".encode())
            shown += b"|"
        output = process.communicate(timeout=60)[0]
        shown += _rest(terminal)
    os.close(terminal)
    return process.returncode, output, shown.decode()


def _rest(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody is at the other end any more
        return b""


def test_password_is_read_twice_and_shown_never() -> None:
    exit_code, output, shown = typed(PASSWORD, PASSWORD)

    assert exit_code == 0
    assert check_password(PASSWORD, output.strip())
    assert PASSWORD not in shown + output
    assert shown.count(":") == 2


def test_short_password_is_refused() -> None:
    exit_code, output, shown = typed("short", "short")

    assert (exit_code, output) == (2, "")
    assert "at least 12 characters" in shown
