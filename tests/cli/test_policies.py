"""`penstock policies`: what it says of people and policies, and what they would ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from penstock.cli.main import app
from penstock.cli.text import local_time

HASH = f"scrypt$16384$8$1$c2FsdHNhbHRzYWx0${'A' * 43}"
PEOPLE = f"""apiVersion: penstock/v1
kind: People
users:
  ada: {{name: "Ada\\e Adams", email: ada@example.com, groups: [sre], role: approver, password: "{HASH}"}}
  bob: {{groups: [payments]}}
  cy: {{}}
groups:
  sre: {{}}
  payments: {{role: approver}}
"""
POLICY = """apiVersion: penstock/v1
kind: Policy
metadata: {name: production}
rules:
  - name: payments
    match: {agents: [patcher], targets: ["/srv/payments*"]}
    require: {count: 2, from: ["group:sre", "group:payments"], distinct_groups: true}
    forbid: [requester]
    why: Two pairs of eyes
freezes:
  - {name: holidays, match: {types: [MODIFICATION]}, from: 2026-12-20T00:00:00Z, to: 2027-01-02T00:00:00Z}
"""
XMAS = "2026-12-24T12:00:00Z"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    people, folder = tmp_path / "people.yaml", tmp_path / "policies"
    folder.mkdir()
    people.write_text(PEOPLE)
    (folder / "production.yaml").write_text(POLICY)
    return people, folder


def policies(*arguments: str, **environment: str) -> Result:
    unset = {"PENSTOCK_PEOPLE": None, "PENSTOCK_POLICIES": None}
    return CliRunner().invoke(app, ["policies", *arguments], env={**unset, **environment})


def of(files: tuple[Path, Path], *arguments: str) -> Result:
    people, folder = files
    return policies(*arguments, "--people", str(people), "--policies", str(folder))


def test_check_says_what_it_read(files: tuple[Path, Path]) -> None:
    found = of(files, "check")

    assert found.exit_code == 0
    first, second, third = found.stdout.splitlines()
    assert first == "people: 3 users, 2 groups"
    assert second == f"{files[1] / 'production.yaml'}: policy production, 1 rules, 1 freezes"
    assert len(third.removeprefix("version: ")) == 64


def test_check_takes_the_files_of_the_settings(files: tuple[Path, Path]) -> None:
    people, folder = files

    found = policies("check", PENSTOCK_PEOPLE=str(people), PENSTOCK_POLICIES=str(folder))

    assert found.stdout == of(files, "check").stdout


def test_check_without_files_says_what_that_means() -> None:
    found = policies("check")

    assert found.exit_code == 0
    assert found.stdout.splitlines()[:2] == [
        "people: no file; whoever can use this machine may approve",
        "policies: none",
    ]


def test_check_tells_every_mistake_and_fails(files: tuple[Path, Path]) -> None:
    people, folder = files
    people.write_text(PEOPLE.replace("role: approver, password", "rolle: approver, pass"))
    (folder / "production.yaml").write_text(POLICY.replace("forbid", "forbit"))

    found = of(files, "check")

    assert found.exit_code == 2
    assert found.stdout == ""
    assert f"{people}:4:69: unknown key 'rolle'; did you mean 'role'?" in found.stderr
    assert "production.yaml:8:5: unknown key 'forbit'; did you mean 'forbid'?" in found.stderr
    assert "scrypt" not in found.stderr


def test_check_tells_what_nobody_could_ever_approve(files: tuple[Path, Path]) -> None:
    _, folder = files
    (folder / "production.yaml").write_text(POLICY.replace("count: 2", "count: 3"))

    found = of(files, "check")

    assert found.exit_code == 2
    assert found.stdout.startswith("people: 3 users")
    assert "production.yaml:7:14: nobody could ever approve this: it needs 3 approvals" in found.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    found = policies("check", "--people", str(tmp_path / "none.yaml"))

    assert found.exit_code == 2
    assert "none.yaml:1:1: cannot be read: No such file or directory" in found.stderr


def test_show_lists_people_rules_and_freezes(files: tuple[Path, Path]) -> None:
    found = of(files, "show")

    lines = [" ".join(line.split()) for line in found.stdout.splitlines()]
    assert found.exit_code == 0
    assert "PERSON APPROVER GROUPS NAME" in lines
    assert "ada yes sre Ada\\x1b Adams" in lines
    assert "cy no" in lines
    rule = next(line for line in lines if line.startswith("policy production/payments"))
    assert "agents: patcher; targets: /srv/payments*" in rule
    assert rule.endswith("Two pairs of eyes")
    freeze = next(line for line in lines if line.startswith("freeze production/holidays"))
    assert "types: MODIFICATION 2 approvals that break the freeze" in freeze
    assert "scrypt" not in found.stdout


def test_show_marks_a_freeze_that_is_on(files: tuple[Path, Path]) -> None:
    text = POLICY.replace("2026-12-20", "2020-01-01").replace("2027-01-02", "2200-01-01")
    (files[1] / "production.yaml").write_text(text.replace("match: {types: [MODIFICATION]}, ", ""))

    found = of(files, "show")

    assert "freeze production/holidays (on)  everything" in found.stdout


def test_show_without_files_says_so() -> None:
    assert policies("show").stdout == policies("check").stdout


def test_show_as_json_has_everything_but_passwords(files: tuple[Path, Path]) -> None:
    found = json.loads(of(files, "show", "--json").stdout)

    assert found["people"]["file"] == str(files[0])
    assert [one["name"] for one in found["people"]["users"]] == ["ada", "bob", "cy"]
    assert [one["approver"] for one in found["people"]["users"]] == [True, True, False]
    assert [one["password"] for one in found["people"]["users"]] == [True, False, False]
    assert found["people"]["groups"]["payments"] == {"members": [], "role": "approver", "claims": []}
    (policy,) = found["policies"]
    assert policy["rules"][0]["require"]["from"] == ["group:sre", "group:payments"]
    assert policy["freezes"][0]["to"] == "2027-01-02T00:00:00Z"
    assert "scrypt" not in json.dumps(found)
    assert json.loads(policies("show", "--json").stdout)["people"] == {
        "file": None,
        "users": [],
        "groups": {},
    }


def test_explain_tells_what_would_be_needed_and_who_could_give_it(files: tuple[Path, Path]) -> None:
    found = of(files, "explain", "--agent", "patcher", "--target", "/srv/payments/api", "--at", XMAS)

    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "risk: patcher changes things and always needs an approval",
        "  needs 1 approval",
        "  from ada, bob",
        "policy production/payments: Two pairs of eyes",
        "  needs 2 approvals from group:sre or group:payments, each for another of these",
        "  not from the requester",
        "  from ada, bob",
        "freeze production/holidays: nothing changes during the freeze production/holidays",
        "  needs 2 approvals that break the freeze production/holidays",
        f"  until {local_time('2027-01-02T00:00:00Z')}",
        "  from ada, bob",
    ]


def test_explain_follows_target_workflow_type_and_time(files: tuple[Path, Path]) -> None:
    def sources(*arguments: str) -> list[str]:
        found = of(files, "explain", "--json", *arguments)
        return [clause["source"] for clause in json.loads(found.stdout)["clauses"]]

    march = ("--at", "2026-03-01T00:00:00Z")
    assert sources("--agent", "patcher", "--target", "/opt", *march) == ["risk"]
    assert sources("--agent", "patcher", "--target", "/opt", "--target", "/srv/payments", *march) == [
        "risk",
        "policy production/payments",
    ]
    assert sources("--agent", "security-scanner", "--at", XMAS) == []
    assert sources("--agent", "of-somebody-else", "--type", "MODIFICATION", "--at", XMAS) == [
        "freeze production/holidays"
    ]


def test_explain_as_json_has_the_clauses(files: tuple[Path, Path]) -> None:
    found = json.loads(
        of(files, "explain", "--agent", "x", "--type", "MODIFICATION", "--at", XMAS, "--json").stdout
    )

    assert len(found["version"]) == 64
    assert found["at"] == "2026-12-24T12:00:00+00:00"
    (clause,) = found["clauses"]
    assert clause["until"] == "2027-01-02T00:00:00Z"
    assert (clause["count"], clause["of"], clause["break_glass"]) == (2, [], True)
    assert (clause["names"], clause["others"], clause["most"]) == (["ada", "bob"], False, 2)


def test_explain_says_when_nobody_is_asked_and_when_anybody_may(files: tuple[Path, Path]) -> None:
    nothing = of(files, "explain", "--agent", "security-scanner", "--at", "2026-03-01T00:00:00Z")
    anybody = policies("explain", "--agent", "patcher")

    assert nothing.stdout == "no approval is needed, unless the workflow asks for one\n"
    assert anybody.stdout.splitlines()[-1] == "  from others"


def test_explain_says_when_nobody_could(files: tuple[Path, Path]) -> None:
    by_cy = POLICY.replace('["group:sre", "group:payments"]', '["user:cy"]')
    (files[1] / "production.yaml").write_text(by_cy)

    found = of(files, "explain", "--agent", "patcher", "--target", "/srv/payments", "--at", "2026-03-01")

    assert found.stdout.splitlines()[-1] == "  from nobody who is known"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--agent", "nobody-knows"), "no agent is named 'nobody-knows'"),
        (("--agent", "patcher", "--type", "modification"), "there is no type 'modification'; the types are"),
        (("--agent", "patcher", "--at", "soon"), "--at takes a moment like 2026-12-20T00:00:00Z, not 'soon'"),
    ],
)
def test_explain_refuses_what_it_does_not_know(
    files: tuple[Path, Path], arguments: tuple[str, ...], message: str
) -> None:
    found = of(files, "explain", *arguments)

    assert found.exit_code == 2
    assert message in found.stderr
