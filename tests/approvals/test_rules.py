"""The book of rules: read from files, read again when they change, never worse than before."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.approvals.people import People
from penstock.approvals.policy import Policies
from penstock.approvals.quorum import Vote, refusal, tally
from penstock.approvals.rules import RuleBook, Rules, read_rules
from penstock.approvals.satisfiable import unsatisfiable_policies
from penstock.approvals.terms import Clause, Terms
from penstock.errors import SpecError

GUIDE = (Path(__file__).parents[2] / "docs" / "POLICIES.md").read_text(encoding="utf-8")
PEOPLE = "apiVersion: penstock/v1\nkind: People\nusers: {ada: {role: approver}}\n"


def policy(name: str, rule: str = "r") -> str:
    return f"apiVersion: penstock/v1\nkind: Policy\nmetadata: {{name: {name}}}\nrules: [{{name: {rule}}}]\n"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.yaml"
    path.write_text(PEOPLE)
    return path


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "b.yaml").write_text(policy("second"))
    (folder / "a.yaml").write_text(policy("first"))
    return folder


def names(rules: Rules) -> list[str]:
    return [item.name for item in rules.policies.items]


def problems(people: Path | None, policies: Path | None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        RuleBook(people, policies)
    return [str(problem).replace(f"{Path(problem.file).parent}/", "", 1) for problem in caught.value.problems]


def test_without_files_everybody_is_known_and_no_policy_holds() -> None:
    rules = RuleBook(None, None).current()

    assert rules.people == People() == Rules().people
    assert rules.policies == Policies() == Rules().policies
    assert len(rules.version) == 64


def test_files_are_read_in_the_order_of_their_names(people: Path, policies: Path) -> None:
    (policies / "README.md").write_text("# Ours\n")
    (policies / ".#a.yaml").symlink_to("nowhere")

    rules = RuleBook(people, policies).current()

    assert names(rules) == ["first", "second"]
    assert rules.people.find("ada") is not None
    assert rules.people.closed


def test_the_version_follows_names_and_bytes_and_nothing_else(people: Path, policies: Path) -> None:
    version = read_rules(people, policies).version
    seen = {version}

    os.utime(people, (1, 1))
    assert read_rules(people, policies).version == version
    moved = policies.rename(policies.with_name("elsewhere"))
    assert read_rules(people, moved).version == version
    for change in (
        lambda: people.write_text(PEOPLE + "# x\n"),
        lambda: (moved / "b.yaml").rename(moved / "c.yaml"),
        lambda: (moved / "a.yaml").write_text(policy("other")),
        (moved / "c.yaml").unlink,
    ):
        change()
        seen.add(read_rules(people, moved).version)
    seen.add(read_rules(None, moved).version)
    assert len(seen) == 6


def test_the_version_tells_where_a_file_ends(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    (one / "a.yaml").write_text(policy("a") + "#\n")
    (one / "b.yaml").write_text(policy("b"))
    (other / "a.yaml").write_text(policy("a"))
    (other / "b.yaml").write_text("#\n" + policy("b"))

    assert read_rules(None, one).version != read_rules(None, other).version


def test_all_mistakes_of_all_files_come_at_once(people: Path, policies: Path) -> None:
    people.write_text(PEOPLE + "group: {}\n")
    (policies / "a.yaml").write_text(policy("first") + "x: 1\ny: 2\n")
    (policies / "c.yml").write_text(policy("third"))

    assert problems(people, policies) == [
        "people.yaml:4:1: unknown key 'group'; did you mean 'groups'?",
        "a.yaml:5:1: unknown key 'x'; known: apiVersion, freezes, kind, metadata, rules",
        "a.yaml:6:1: unknown key 'y'; known: apiVersion, freezes, kind, metadata, rules",
        "c.yml:1:1: a policy's file is named *.yaml",
    ]


def test_a_name_is_given_once(policies: Path) -> None:
    (policies / "c.yaml").write_text(policy("first"))

    assert problems(None, policies) == [
        f"c.yaml:3:18: policy 'first' is already given in {policies / 'a.yaml'}"
    ]


def test_what_a_setting_names_must_be_there(tmp_path: Path, people: Path) -> None:
    assert problems(tmp_path / "none.yaml", tmp_path / "none") == [
        "none:1:1: cannot be read: No such file or directory",
        "none.yaml:1:1: cannot be read: No such file or directory",
    ]
    assert problems(tmp_path, people) == [
        f"{tmp_path.name}:1:1: cannot be read: Is a directory",
        "people.yaml:1:1: cannot be read: Not a directory",
    ]


def test_nothing_is_read_again_while_nothing_changes(people: Path, policies: Path) -> None:
    book = RuleBook(people, policies)

    assert book.current() is book.current()


def test_files_that_change_come_and_go_are_read_again(people: Path, policies: Path) -> None:
    book = RuleBook(people, policies)
    before = book.current()

    (policies / "c.yaml").write_text(policy("third"))
    assert names(book.current()) == ["first", "second", "third"]
    (policies / "a.yaml").unlink()
    assert names(book.current()) == ["second", "third"]
    people.write_text(PEOPLE.replace("ada", "bob"))
    assert book.current().people.find("ada") is None
    assert book.current().version != before.version
    assert book.trouble == ""


def test_a_change_of_the_same_length_is_seen(policies: Path) -> None:
    book = RuleBook(None, policies)

    (policies / "a.yaml").write_text(policy("worst"))
    os.utime(policies / "a.yaml", (1, 1))

    assert names(book.current()) == ["worst", "second"]


def test_wrong_files_leave_in_force_what_was_before(people: Path, policies: Path) -> None:
    book = RuleBook(people, policies)
    before = book.current()

    with capture_logs() as logs:
        (policies / "a.yaml").write_text("rules: 1\n")
        assert book.current() is before
        assert book.current() is before
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert "a.yaml:1:8: must be a list" in book.trouble

    with capture_logs() as logs:
        (policies / "a.yaml").write_text(policy("first", "mended"))
        assert [item.spec.rules[0].name for item in book.current().policies.items] == ["mended", "r"]
    assert [entry["log_level"] for entry in logs] == ["info"]
    assert book.trouble == ""


def test_files_that_vanish_leave_in_force_what_was_before(people: Path, policies: Path) -> None:
    book = RuleBook(people, policies)
    before = book.current()

    people.unlink()
    policies.rename(policies.with_name("moved"))

    assert book.current() is before
    assert book.trouble.count("No such file or directory") == 2
    policies.with_name("moved").rename(policies)
    people.write_text(PEOPLE)
    assert book.current().people.find("ada") is not None
    assert book.trouble == ""


def test_a_password_stands_neither_in_the_log_nor_in_the_trouble(people: Path) -> None:
    book = RuleBook(people, None)

    with capture_logs() as logs:
        people.write_text(PEOPLE.replace("role: approver", "password: hunter2"))
        book.current()

    assert book.trouble
    assert "hunter2" not in f"{logs}{book.trouble}"


def test_the_example_of_the_guide_is_as_it_says(tmp_path: Path) -> None:
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    rules = RuleBook(tmp_path / "people.yaml", tmp_path / "policies").current()

    def needs(moment: str, *approvals: str) -> str:
        now = datetime.fromisoformat(moment)
        clauses = rules.policies.clauses(
            agent="patcher",
            type_="MODIFICATION",
            workflow="fix-vulnerability",
            targets=("/srv/payments/api",),
            now=now,
        )
        terms = Terms((Clause("workflow", "the workflow asks"), *clauses), requester="eve", last_editor="eve")
        votes: list[Vote] = []
        for text in approvals:
            person = rules.people.find(text.rstrip("!"))
            assert person is not None
            glass = text.endswith("!")
            assert refusal(terms, person, now=now, escalated=False, break_glass=glass) == ""
            votes.append(Vote(person.name, person.groups, glass))
        return tally(terms, votes, now=now, escalated=False).needs

    march, christmas = "2026-03-04T12:00:00+01:00", "2026-12-24T12:00:00+01:00"
    teams = "from group:sre or group:payments, each for another of these"
    assert unsatisfiable_policies(rules) == []
    assert needs(march) == f"2 approvals {teams}"
    assert needs(march, "ada") == needs(march, "ada", "bob") == f"1 more approval {teams}"
    assert needs(march, "ada", "cleo") == ""
    assert needs(christmas, "ada!", "cleo") == (
        "1 more approval that breaks the freeze production/holidays from group:sre"
    )
    assert needs(christmas, "ada!", "bob!", "cleo") == ""
    assert needs("2027-01-02T08:00:00+01:00", "ada", "cleo") == ""
    assert "weekend-nights" in needs("2026-03-07T07:59:00+01:00")
