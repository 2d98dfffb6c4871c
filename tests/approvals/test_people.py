"""The people file: who is known, in which groups, and who may approve."""

from __future__ import annotations

import pytest

from penstock.approvals.passwords import check_password, hash_password
from penstock.approvals.people import People, Person, parse_people
from penstock.errors import SpecError

HASH = f"scrypt$16384$8$1$c2FsdHNhbHRzYWx0${'A' * 43}"
HEAD = "apiVersion: penstock/v1\nkind: People\n"
TEAM = f"""{HEAD}users:
  alice:
    name: Alice Adams
    email: a@example.com
    groups: [sre]
    role: approver
    password: "{HASH}"
  bob: {{}}
  carol: {{role: operator, groups: [dev]}}
  dan@example.com: {{role: admin}}
groups:
  sre: {{members: [bob], role: approver, claims: [okta-sre, okta-ops]}}
  dev: {{claims: [okta-dev]}}
"""


@pytest.fixture
def people() -> People:
    return parse_people(TEAM, file="people.yaml")


def refused(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_people(HEAD + text, file="p.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_without_a_file_whoever_is_there_is_an_approver() -> None:
    people = People()

    assert people.find("root") == Person("root", approver=True)
    assert not people.closed
    assert people.groups == people.open_groups == frozenset()
    assert people.users == ()
    assert people.open_to_approvers
    assert people.password_of("root") == ""


def test_a_user_has_what_the_file_says(people: People) -> None:
    assert people.closed
    assert people.find("alice") == Person(
        "alice", frozenset({"sre"}), approver=True, full_name="Alice Adams", email="a@example.com"
    )
    assert people.find("dan@example.com") == Person("dan@example.com", approver=True)


def test_a_group_lists_members_and_gives_them_its_role(people: People) -> None:
    assert people.find("bob") == Person("bob", frozenset({"sre"}), approver=True)


def test_the_default_is_no_approver(people: People) -> None:
    assert people.find("carol") == Person("carol", frozenset({"dev"}), approver=False)


def test_claims_add_groups_to_a_user(people: People) -> None:
    carol = people.find("carol", claims=["okta-ops", "unheard-of"])

    assert carol == Person(
        "carol", frozenset({"dev", "sre"}), claims=frozenset({"okta-ops", "unheard-of"}), approver=True
    )


def test_somebody_else_is_known_by_a_claim_alone(people: People) -> None:
    assert people.find("erin") is None
    assert people.find("erin", claims=["sre", "OKTA-SRE", ""]) is None
    by_sre, by_dev = frozenset({"okta-sre"}), frozenset({"okta-dev"})
    assert people.find("erin", claims=by_sre) == Person("erin", frozenset({"sre"}), by_sre, approver=True)
    assert people.find("erin", claims=by_dev) == Person("erin", frozenset({"dev"}), by_dev, approver=False)


@pytest.mark.parametrize("name", ["", "a b", "-x", "user:alice", "a\n", "a" * 101, "ä"])
def test_a_claim_makes_nobody_known_whom_no_principal_could_name(people: People, name: str) -> None:
    assert people.find(name, claims=["okta-sre"]) is None


def test_names_are_told_apart_by_case(people: People) -> None:
    assert people.find("Alice") is None


def test_what_is_known_of_all(people: People) -> None:
    assert people.groups == people.open_groups == {"sre", "dev"}
    assert [person.name for person in people.users] == ["alice", "bob", "carol", "dan@example.com"]
    assert people.open_to_approvers


def test_members_who_are_users_are_fine_without_any_claim() -> None:
    people = parse_people(HEAD + "users: {ada: {}}\ngroups: {sre: {members: [ada]}}\n", file="p.yaml")

    assert people.find("ada") == Person("ada", frozenset({"sre"}), approver=False)


def test_viewers_by_claim_are_no_approvers() -> None:
    people = parse_people(HEAD + "groups: {dev: {claims: [d]}, sre: {role: admin}}\n", file="p.yaml")

    assert people.open_groups == {"dev"}
    assert not people.open_to_approvers


def test_a_member_who_is_no_user_may_come_by_a_claim() -> None:
    text = "groups: {dev: {claims: [d]}, sre: {role: admin, members: [zoe]}}\n"
    zoe = parse_people(HEAD + text, file="p.yaml").find("zoe", claims=["d"])

    assert zoe == Person("zoe", frozenset({"dev", "sre"}), claims=frozenset({"d"}), approver=True)


def test_the_password_is_given_to_who_asks_for_it_alone(people: People) -> None:
    assert people.password_of("alice") == HASH
    assert people.password_of("bob") == people.password_of("nobody") == ""
    assert people.file is not None
    shown = f"{people!r} {people.file!r} {people.file.source!r} {people.file.model_dump_json()}"
    assert "scrypt" not in shown


def test_a_hash_that_was_made_for_the_file_is_taken() -> None:
    made = hash_password("correct horse battery staple")

    people = parse_people(f"{HEAD}users: {{ada: {{password: {made}}}}}\n", file="p.yaml")

    assert check_password("correct horse battery staple", people.password_of("ada"))


@pytest.mark.parametrize(
    "value", ["hunter2", f"'{HASH} '", "scrypt$1$2$3$short$short", "[hunter2]", "{hunter2: 1}", f"x{HASH}"]
)
def test_a_password_in_the_clear_is_refused_and_not_shown(value: str) -> None:
    (problem,) = refused(f"users: {{alice: {{password: {value}}}}}\n")

    assert problem == "p.yaml:3:27: must be a hash as `penstock people password` prints it"


WRONG = {
    "no mapping": ("", "users: 1\n", "3:8: must be a mapping"),
    "unknown key": ("", "users: {a: {rol: admin}}\n", "3:13: unknown key 'rol'; did you mean 'role'?"),
    "unknown key of the file": ("", "user: {}\n", "3:1: unknown key 'user'; did you mean 'users'?"),
    "role": (
        "",
        "users: {a: {role: aprover}}\n",
        "3:19: 'aprover' is not known here; did you mean 'approver'?",
    ),
    "name": ("", "users: {'a b': {}}\n", "3:9: 'a b': a name here is letters, digits and any of . _ @ + -"),
    "group's name": ("", "groups: {'user:x': {}}\n", "3:10: 'user:x': a name here is"),
    "undeclared group": (
        "groups: {sre: {}}\n",
        "users: {a: {groups: [sra]}}\n",
        "4:22: unknown group 'sra'; declare it under groups; did you mean 'sre'?",
    ),
    "unknown member": (
        "users: {alice: {}}\n",
        "groups: {sre: {members: [alise]}}\n",
        "4:26: unknown user 'alise'; did you mean 'alice'?",
    ),
    "empty claim": ("", "groups: {sre: {claims: ['']}}\n", "3:25: string should have at least 1 character"),
}


@pytest.mark.parametrize(("before", "text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_with_its_place(before: str, text: str, expected: str) -> None:
    (problem,) = refused(before + text)

    assert problem.startswith(f"p.yaml:{expected}")


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(SpecError, match="'Policy' is not known here; known: People"):
        parse_people("apiVersion: penstock/v1\nkind: Policy\n", file="p.yaml")
    with pytest.raises(SpecError, match="a people file is a mapping"):
        parse_people("[]", file="p.yaml")


def test_all_mistakes_come_at_once() -> None:
    assert len(refused("users: {a: {rol: x, role: y}, b: {email: 1}}\n")) == 3
