"""Policies: what they match, which clauses they add, and when a freeze is on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.policy import Policies, parse_policy
from penstock.approvals.terms import Clause
from penstock.errors import SpecError

HEAD = "apiVersion: penstock/v1\nkind: Policy\nmetadata: {name: prod}\n"
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def read(text: str) -> Policies:
    return Policies((parse_policy(HEAD + text, file="prod.yaml"),))


def sources(
    policies: Policies,
    *,
    agent: str = "patcher",
    type_: str = "MODIFICATION",
    workflow: str = "fix",
    targets: tuple[str, ...] = ("/srv/payments",),
    now: datetime = NOON,
) -> list[str]:
    found = policies.clauses(agent=agent, type_=type_, workflow=workflow, targets=targets, now=now)
    return [clause.source for clause in found]


def matches(match: str, **facts: object) -> bool:
    return bool(sources(read(f"rules: [{{name: r, match: {match}}}]\n"), **facts))  # pyright: ignore[reportArgumentType]


def refused(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_a_rule_adds_what_it_requires() -> None:
    policies = read(
        "rules:\n"
        "  - name: payments\n"
        "    require: {count: 2, from: ['group:sre', 'user:ada'], distinct_groups: true}\n"
        "    forbid: [requester, last_editor]\n"
        "    why: Payments are delicate\n"
        "  - {name: bare}\n"
    )

    assert policies.clauses(agent="a", type_="EXECUTION", workflow="w", targets=(), now=NOON) == (
        Clause(
            source="policy prod/payments",
            why="Payments are delicate",
            count=2,
            of=("group:sre", "user:ada"),
            distinct_groups=True,
            forbid=("requester", "last_editor"),
        ),
        Clause(source="policy prod/bare", why="policy prod asks for it: bare"),
    )


@pytest.mark.parametrize(
    ("glob", "name", "fits"),
    [
        ("patcher", "patcher", True),
        ("patcher", "Patcher", False),
        ("patch", "patcher", False),
        ("atcher", "patcher", False),
        ("patch*", "patcher", True),
        ("patch*", "patch", True),
        ("p?tcher", "patcher", True),
        ("p?tcher", "ptcher", False),
        ("[p]atcher", "patcher", False),
        ("[p]atcher", "[p]atcher", True),
        ("a]*[!b", "a]x[!b", True),
        ("*", "", True),
        ("*", "a\nb", True),
        ("a.c", "abc", False),
        ("a", "a\n", False),
        ("\\*", "\\x", True),
    ],
)
def test_a_glob_knows_stars_and_question_marks_alone(glob: str, name: str, fits: bool) -> None:
    quoted = glob.replace("'", "''")

    assert matches(f"{{agents: ['{quoted}']}}", agent=name) is fits
    assert matches(f"{{workflows: ['{quoted}']}}", workflow=name) is fits
    assert matches(f"{{targets: ['{quoted}']}}", targets=("/other", name)) is fits


def test_a_star_crosses_folders() -> None:
    assert matches("{targets: ['/srv/*']}", targets=("/srv/a/b",))


def test_many_stars_cost_little() -> None:
    assert not matches(f"{{targets: ['{'*a' * 200}b']}}", targets=("a" * 5000,))


def test_all_keys_must_fit_and_of_each_any_value() -> None:
    match = "{agents: [patcher, fixer], types: [MODIFICATION, EXECUTION], targets: ['/srv/*', '/opt/*']}"

    assert matches(match)
    assert matches(match, agent="fixer", targets=("/home", "/opt/x"))
    assert not matches(match, agent="scanner")
    assert not matches(match, type_="ANALYSIS")
    assert not matches(match, targets=("/home",))


def test_what_changes_things_and_names_no_targets_may_change_any() -> None:
    assert matches("{targets: ['/srv/*']}", targets=())
    assert matches("{targets: ['/srv/*']}", type_="EXECUTION", targets=())
    assert not matches("{targets: ['/srv/*'], agents: [patcher]}", type_="ANALYSIS", targets=())


def test_without_match_everything_fits_that_changes_things() -> None:
    assert matches("{}", targets=())
    assert not matches("{}", type_="ANALYSIS", targets=())


def test_what_only_looks_is_meant_when_it_is_named() -> None:
    assert matches("{types: [ANALYSIS]}", type_="ANALYSIS")
    assert matches("{agents: ['*']}", type_="ANALYSIS")
    assert not matches("{workflows: ['*'], targets: ['*']}", type_="ANALYSIS")


def test_what_may_be_concerned_is_told_without_target_and_time() -> None:
    policies = read(
        "rules: [{name: r, match: {agents: [patcher], targets: ['/srv/*']}}]\n"
        "freezes: [{name: f, match: {workflows: ['night-*'], types: [EXECUTION]},"
        " from: 2020-01-01T00:00:00Z, to: 2020-01-02T00:00:00Z}]\n"
    )

    assert policies.may_concern(agent="patcher", type_="MODIFICATION", workflow="w")
    assert policies.may_concern(agent="x", type_="EXECUTION", workflow="night-run")
    assert not policies.may_concern(agent="x", type_="ANALYSIS", workflow="night-run")
    assert not Policies().may_concern(agent="x", type_="ANALYSIS", workflow="night-run")


def test_the_order_is_that_of_the_files() -> None:
    first = parse_policy(
        HEAD.replace("prod", "a")
        + "freezes: [{name: f, from: 2026-01-01T00:00:00Z, to: 2027-01-01T00:00:00Z}]\n"
        "rules: [{name: z}, {name: b}]\n",
        file="1.yaml",
    )
    second = parse_policy(HEAD + "rules: [{name: a}]\n", file="2.yaml")

    found = sources(Policies((first, second)))

    assert found == ["policy a/z", "policy a/b", "freeze a/f", "policy prod/a"]
    assert sources(Policies((second, first))) == ["policy prod/a", "policy a/z", "policy a/b", "freeze a/f"]


def test_a_freeze_is_on_from_its_first_moment_to_before_its_last() -> None:
    policies = read(
        "freezes: [{name: holidays, from: 2026-12-20T01:00:00+01:00, to: 2027-01-02T00:00:00Z,"
        " break_glass: {count: 3, from: ['group:sre']}, why: Nobody is here}]\n"
    )
    begin, end = datetime(2026, 12, 20, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)

    def clauses(now: datetime) -> tuple[Clause, ...]:
        return policies.clauses(agent="a", type_="EXECUTION", workflow="w", targets=(), now=now)

    expected = Clause(
        source="freeze prod/holidays",
        why="Nobody is here",
        count=3,
        of=("group:sre",),
        break_glass=True,
        until=end,
    )
    assert clauses(begin) == clauses(end - timedelta(microseconds=1)) == (expected,)
    assert clauses(begin - timedelta(microseconds=1)) == clauses(end) == ()


def test_breaking_the_glass_takes_two_of_all_approvers_when_nothing_is_said() -> None:
    year = "from: 2026-01-01T00:00:00Z, to: 2027-01-01T00:00:00Z"
    unsaid = read(f"freezes: [{{name: f, {year}}}]\n")
    said = read(f"freezes: [{{name: f, {year}, break_glass: {{count: 2}}}}]\n")

    for policies in (unsaid, said):
        (clause,) = policies.clauses(agent="a", type_="EXECUTION", workflow="w", targets=(), now=NOON)
        assert (clause.count, clause.of, clause.why) == (2, (), "nothing changes during the freeze prod/f")


def weekly(days: str, begin: str, end: str, zone: str = "Europe/Berlin") -> Policies:
    return read(
        f"freezes: [{{name: f, weekly: {{days: {days}, from: '{begin}', to: '{end}', timezone: {zone}}}}}]\n"
    )


def until(policies: Policies, now: str) -> str | None:
    """Give the end of the freeze that is on: `off`, ISO in UTC, or None when it never ends."""
    moment = datetime.fromisoformat(now)
    found = policies.clauses(agent="a", type_="EXECUTION", workflow="w", targets=(), now=moment)
    if not found:
        return "off"
    return found[0].until.astimezone(UTC).strftime("%dT%H:%M") if found[0].until else None


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-03-06T15:59:59+01:00", "off"),
        ("2026-03-06T16:00:00+01:00", "07T07:00"),
        ("2026-03-07T07:59:59+01:00", "07T07:00"),
        ("2026-03-07T08:00:00+01:00", "off"),
        ("2026-03-07T16:00:00+01:00", "08T07:00"),
        ("2026-03-08T16:00:00+01:00", "off"),
        ("2026-03-06T23:30:00Z", "07T07:00"),
    ],
)
def test_a_weekly_freeze_follows_the_clock_and_may_end_on_the_next_day(now: str, end: str) -> None:
    assert until(weekly("[fri, sat]", "16:00", "08:00"), now) == end


def test_windows_without_a_break_are_one() -> None:
    policies = weekly("[sat, sun]", "00:00", "00:00", "UTC")

    assert until(policies, "2026-03-07T00:00:00Z") == "09T00:00"
    assert until(policies, "2026-03-08T23:59:59Z") == "09T00:00"
    assert until(policies, "2026-03-09T00:00:00Z") == "off"


def test_a_freeze_of_all_hours_never_ends() -> None:
    policies = weekly("[mon, tue, wed, thu, fri, sat, sun]", "00:00", "00:00")

    assert until(policies, "2026-03-07T12:00:00Z") is None


@pytest.mark.parametrize(
    ("zone", "begin", "end", "now", "expected"),
    [
        # Berlin goes from 02:00 to 03:00 on 29 March 2026: seven hours instead of eight.
        ("Europe/Berlin", "22:00", "06:00", "2026-03-28T21:00:00Z", "29T04:00"),
        ("Europe/Berlin", "22:00", "06:00", "2026-03-29T03:59:59Z", "29T04:00"),
        ("Europe/Berlin", "22:00", "06:00", "2026-03-29T04:00:00Z", "off"),
        # And back from 03:00 to 02:00 on 25 October: nine hours.
        ("Europe/Berlin", "22:00", "06:00", "2026-10-24T20:00:00Z", "25T05:00"),
        ("Europe/Berlin", "22:00", "06:00", "2026-10-25T04:59:59Z", "25T05:00"),
        ("Europe/Berlin", "22:00", "06:00", "2026-10-25T05:00:00Z", "off"),
        # What the clock shows twice lasts until the second time, and begins at the first.
        ("Europe/Berlin", "22:00", "02:30", "2026-10-25T01:29:59Z", "25T01:30"),
        ("Europe/Berlin", "22:00", "02:30", "2026-10-25T01:30:00Z", "off"),
        # What it never shows ends no earlier than half an hour after the change.
        ("Europe/Berlin", "22:00", "02:30", "2026-03-29T01:29:59Z", "29T01:30"),
        ("Europe/Berlin", "22:00", "02:30", "2026-03-29T01:30:00Z", "off"),
    ],
)
def test_a_night_when_the_hour_is_changed(zone: str, begin: str, end: str, now: str, expected: str) -> None:
    assert until(weekly("[sat]", begin, end, zone), now) == expected


def test_a_beginning_that_the_clock_shows_twice_counts_from_the_first() -> None:
    policies = weekly("[sun]", "02:30", "12:00")

    assert until(policies, "2026-10-25T00:29:59Z") == "off"
    assert until(policies, "2026-10-25T00:30:00Z") == "25T11:00"


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    days=st.sets(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1),
    begin=st.times(),
    end=st.times(),
    minutes=st.integers(0, 20 * 24 * 60),
)
def test_a_weekly_freeze_agrees_with_a_count_by_hand(
    days: set[str], begin: object, end: object, minutes: int
) -> None:
    first, last = f"{begin:%H:%M}", f"{end:%H:%M}"
    policies = weekly(f"[{', '.join(sorted(days))}]", first, last, "UTC")
    now = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=minutes)

    clock, today, yesterday = f"{now:%H:%M}", f"{now:%a}".lower(), f"{now - timedelta(days=1):%a}".lower()
    over_night = last <= first
    on = (today in days and first <= clock and (over_night or clock < last)) or (
        over_night and yesterday in days and clock < last
    )

    found = until(policies, now.isoformat())
    assert (found != "off") is on
    clauses = policies.clauses(agent="a", type_="EXECUTION", workflow="w", targets=(), now=now)
    for clause in clauses:
        if clause.until is not None:
            assert clause.until > now
            assert until(policies, clause.until.isoformat()) == "off"


WRONG = {
    "unknown key": (
        "rules: [{name: r, macht: {}}]\n",
        "4:19: unknown key 'macht'; did you mean 'match'?",
    ),
    "unknown key of match": (
        "rules: [{name: r, match: {agent: [a]}}]\n",
        "4:27: unknown key 'agent'; did you mean 'agents'?",
    ),
    "empty match": ("rules: [{name: r, match: {agents: []}}]\n", "4:35: "),
    "empty glob": ("rules: [{name: r, match: {agents: ['']}}]\n", "4:36: "),
    "type": (
        "rules: [{name: r, match: {types: [modification]}}]\n",
        "4:35: 'modification' is not known here; known:",
    ),
    "principal": (
        "rules: [{name: r, require: {from: [sre]}}]\n",
        "4:36: 'sre': write user:name or group:name",
    ),
    "count": ("rules: [{name: r, require: {count: 0}}]\n", "4:36: "),
    "distinct groups of nothing": (
        "rules: [{name: r, require: {distinct_groups: true}}]\n",
        "4:28: distinct_groups needs from: [group:…]",
    ),
    "forbid": ("rules: [{name: r, forbid: [editor]}]\n", "4:28: 'editor' is not known here"),
    "name": ("rules: [{name: 'a b'}]\n", "4:16: "),
    "no name": ("rules: [{}]\n", "4:9: 'name' is missing"),
    "name twice": ("rules: [{name: r}, {name: r}]\n", "4:27: 'r' is already given in line 4"),
    "freeze twice": (
        "freezes:\n" + 2 * "  - {name: f, from: 2026-01-01T00:00:00Z, to: 2026-01-02T00:00:00Z}\n",
        "6:12: 'f' is already given in line 5",
    ),
    "no offset": (
        "freezes: [{name: f, from: 2026-12-20T00:00:00, to: 2027-01-01T00:00:00Z}]\n",
        "4:27: a moment is a date and a time with its offset, like 2026-12-20T00:00:00Z",
    ),
    "no moment": ("freezes: [{name: f, from: soon, to: 2027-01-01T00:00:00Z}]\n", "4:27: a moment is"),
    "moment of a wrong type": ("freezes: [{name: f, from: 1, to: 2027-01-01T00:00:00Z}]\n", "4:27: a moment"),
    "moment outside of time": (
        "freezes: [{name: f, from: '0001-01-01T00:00:00+10:00', to: 2027-01-01T00:00:00Z}]\n",
        "4:27: a moment is",
    ),
    "order": (
        "freezes: [{name: f, from: 2027-01-01T00:00:00Z, to: 2027-01-01T01:00:00+01:00}]\n",
        "4:11: to must be later than from",
    ),
    "neither": ("freezes: [{name: f}]\n", "4:11: give either from and to, or weekly"),
    "half": ("freezes: [{name: f, to: 2027-01-01T00:00:00Z}]\n", "4:11: give either from and to, or weekly"),
    "both": (
        "freezes: [{name: f, to: 2027-01-01T00:00:00Z, weekly: {days: [mon], from: '00:00', to: '01:00'}}]\n",
        "4:11: give either from and to, or weekly",
    ),
    "one to break the glass": (
        "freezes: [{name: f, weekly: {days: [mon], from: '00:00', to: '01:00'}, break_glass: {count: 1}}]\n",
        "4:93: ",
    ),
    "day": (
        "freezes: [{name: f, weekly: {days: [monday], from: '00:00', to: '01:00'}}]\n",
        "4:37: 'monday' is not known here; did you mean 'mon'?",
    ),
    "no day": ("freezes: [{name: f, weekly: {days: [], from: '00:00', to: '01:00'}}]\n", "4:36: "),
    "clock": (
        "freezes: [{name: f, weekly: {days: [mon], from: '24:00', to: '01:00'}}]\n",
        "4:49: '24:00': a time of day is hours and minutes, like 16:00",
    ),
    "zone": (
        "freezes: [{name: f, weekly: {days: [mon], from: '00:00', to: '01:00', timezone: Europe/Berln}}]\n",
        "4:81: there is no such time zone",
    ),
    "zone that is a path": (
        "freezes: [{name: f, weekly: {days: [mon], from: '00:00', to: '01:00', timezone: ../etc}}]\n",
        "4:81: '../etc': must match",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_with_its_place(text: str, expected: str) -> None:
    (problem,) = refused(text)

    assert problem.startswith(f"prod.yaml:{expected}")


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(SpecError, match="a policy file is a mapping"):
        parse_policy("3", file="p.yaml")
    with pytest.raises(SpecError, match="'People' is not known here; known: Policy"):
        parse_policy(HEAD.replace("Policy", "People"), file="p.yaml")
