"""The audit chain: whole ones pass, and whatever was done to a broken one is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.chain import (
    GENESIS,
    Checker,
    Entry,
    Head,
    Verdict,
    check,
    check_lines,
    hash_of,
    line_of,
    parse_head,
    read_lines,
)
from penstock.errors import InputInvalid, SpecError

AT = "2026-11-21T08:00:00.000001Z"
ID = "0b9f8e1c-7d52-4f0e-9c0c-0d5b6f1f2a3b"

Damage = Callable[[list[Entry]], list[Entry]]


def jsonb(value: Any) -> str:
    """Write JSON as PostgreSQL writes a `jsonb`: short keys first."""
    if isinstance(value, dict):
        known: dict[str, Any] = {str(key): item for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  any JSON
        keys = sorted(known, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{jsonb(key)}: {jsonb(known[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(jsonb(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return json.dumps(value, ensure_ascii=False)


def text_of(seq: Any, **changes: Any) -> str:
    fields: dict[str, Any] = {"at": AT, "seq": seq, "kind": "decision", "facts": {}, "person": "ann"}
    return jsonb({**fields, "run_id": None, "request_id": ID, **changes})


def linked(texts: Sequence[str], start: Head = GENESIS) -> list[Entry]:
    """Make a chain of texts, with right hashes whatever they say."""
    entries: list[Entry] = []
    previous = start
    for text in texts:
        entry = Entry(previous.seq + 1, text, previous.hash, hash_of(previous.hash, text))
        entries.append(entry)
        previous = entry.head
    return entries


def grown(count: int = 5, start: Head = GENESIS) -> list[Entry]:
    seqs = range(start.seq + 1, start.seq + 1 + count)
    return linked([text_of(seq, facts={"n": seq, "comment": "gut\x1a\U0001f600 ü\n"}) for seq in seqs], start)


def columns(**changes: Any) -> dict[str, Any]:
    known = {"at": AT, "kind": "decision", "run_id": None, "request_id": ID, "person": "ann"}
    return {**known, **changes}


def exported(entries: Sequence[Entry]) -> list[bytes]:
    return [line_of(entry) for entry in entries]


def found(damaged: str, noted: Head | None = None) -> bool:
    """Tell whether a check finds something wrong with a copy."""
    try:
        lines = damaged.encode("utf-8", "surrogatepass").splitlines(keepends=True)
        return not check_lines(lines, file="f", noted=noted).ok
    except SpecError:
        return True


def broken(verdict: Verdict) -> tuple[int, str]:
    assert not verdict.ok
    assert verdict.broken is not None
    assert verdict.broken.expected != verdict.broken.found
    assert str(verdict.broken).startswith(f"entry {verdict.broken.seq}: {verdict.broken.what}: expected ")
    return verdict.broken.seq, verdict.broken.what


def test_whole_chain_passes_and_gives_its_head() -> None:
    entries = grown()

    verdict = check(entries)

    assert verdict == Verdict(GENESIS, entries[-1].head)
    assert (verdict.ok, verdict.entries) == (True, 5)


def test_empty_chain_is_whole() -> None:
    assert check([]) == Verdict(GENESIS, GENESIS)


def test_chain_goes_on_from_a_head() -> None:
    entries = grown(8)

    verdict = check(iter(entries[3:]), start=entries[2].head)

    assert (verdict.ok, verdict.entries, verdict.head) == (True, 5, entries[-1].head)


def test_clock_that_goes_backwards_breaks_nothing() -> None:
    times = ["2026-11-21T08:00:00.000002Z", "2026-11-21T07:59:59.999999Z", "1999-01-01T00:00:00.000000Z"]

    assert check(linked([text_of(seq, at=at) for seq, at in enumerate(times, 1)])).ok


def rewritten(entry: Entry, text: str) -> Entry:
    """Write another text with a hash that fits."""
    return replace(entry, text=text, hash=hash_of(entry.previous, text))


def swapped(entries: list[Entry]) -> list[Entry]:
    second, third = entries[1], entries[2]
    return [entries[0], replace(third, seq=2), replace(second, seq=3), *entries[3:]]


def forged(entries: list[Entry]) -> list[Entry]:
    """Put in an entry of one's own and number what follows anew, texts and all but the hashes."""
    mine = Entry(3, text_of(3), entries[1].hash, hash_of(entries[1].hash, text_of(3)))
    return [*entries[:2], mine, *(replace(entry, seq=entry.seq + 1) for entry in entries[2:])]


DAMAGES: list[tuple[Damage, tuple[int, str]]] = [
    (lambda all_: [all_[0], *all_[2:]], (2, "number")),
    (lambda all_: all_[1:], (1, "number")),
    (lambda all_: [all_[1], all_[0], *all_[2:]], (1, "number")),
    (lambda all_: [*all_[:3], all_[2], *all_[3:]], (4, "number")),
    (swapped, (2, "hash of the entry before")),
    (forged, (4, "hash of the entry before")),
    (lambda all_: [replace(all_[0], previous="1" * 64), *all_[1:]], (1, "hash of the entry before")),
    (lambda all_: [*all_[:3], replace(all_[3], text=text_of(4)), all_[4]], (4, "hash")),
    (lambda all_: [*all_[:4], replace(all_[4], hash="f" * 64)], (5, "hash")),
    (lambda all_: [*all_[:4], replace(all_[4], hash=all_[4].hash.upper())], (5, "hash")),
    (
        lambda all_: [*all_[:1], rewritten(all_[1], text_of(2)), *all_[2:]],
        (3, "hash of the entry before"),
    ),
    (lambda all_: [*all_[:4], rewritten(all_[4], text_of(4))], (5, "number in its text")),
    (lambda all_: [*all_[:4], replace(all_[4], text=all_[4].text + "\ud800")], (5, "text")),
]


@pytest.mark.parametrize(("damage", "where"), DAMAGES)
def test_damage_is_named(damage: Damage, where: tuple[int, str]) -> None:
    verdict = check(damage(grown()))

    assert broken(verdict) == where
    assert verdict.head.seq == where[0] - 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "text"),
        ("null", "text"),
        ("[]", "text"),
        ("{}", "text"),
        ("{", "text"),
        ("1", "text"),
        (text_of(1).replace(": ", ":"), "text"),
        (text_of(1) + "\n", "text"),
        (" " + text_of(1), "text"),
        (text_of(1)[:-1] + ', "request_idx": 1}', "text"),
        (text_of(1).replace('"kind": "decision", ', ""), "text"),
        (text_of(1).replace('"kind": "decision", ', '"kind": "decision", "kind": "decision", '), "text"),
        (text_of(1).replace('"at": ', '"aa": "", "at": '), "text"),
        (text_of(1).replace("ann", "\\u0061nn"), "text"),
        (text_of(1).replace("ann", "\\u001A"), "text"),
        (text_of(1).replace("ann", "\\ud800"), "text"),
        (text_of(1).replace("ann", "\\u0008"), "text"),
        (text_of(1).replace("ann", "\\u000a"), "text"),
        (text_of(1).replace("ann", "a\tn"), "text"),
        (text_of(1).replace("{}", '{"b": 1, "a": 1}'), "text"),
        (text_of(1).replace("{}", '{"aa": 1, "b": 1}'), "text"),
        (text_of(1).replace("{}", '{"a": 1, "a": 1}'), "text"),
        (text_of(1).replace("{}", '{"a": NaN}'), "text"),
        (text_of(1).replace("{}", '{"a": 1e3}'), "text"),
        (text_of(1).replace("{}", '{"a": -0.0}'), "text"),
        (text_of(1).replace("{}", '{"a": 01}'), "text"),
        (text_of(1).replace("{}", '{"a": ' + "[" * 9999 + "]" * 9999 + "}"), "text"),
        (text_of(1).replace("{}", '{"a": 1' + "1" * 9999 + "!}"), "text"),
        (text_of(True), "'seq' in its text"),
        (text_of(1.0), "'seq' in its text"),
        (text_of("1"), "'seq' in its text"),
        (text_of(1, at="2026-11-21T08:00:00Z"), "'at' in its text"),
        (text_of(1, at=None), "'at' in its text"),
        (text_of(1, kind=None), "'kind' in its text"),
        (text_of(1, facts=[]), "'facts' in its text"),
        (text_of(1, person=7), "'person' in its text"),
        (text_of(1, run_id="x"), "'run_id' in its text"),
        (text_of(1, request_id=ID.upper()), "'request_id' in its text"),
    ],
)
def test_text_that_is_no_entry_is_named_though_its_hash_fits(text: str, what: str) -> None:
    assert broken(check(linked([text]))) == (1, what)


@pytest.mark.parametrize(
    "facts",
    [
        '{"a": -0.05, "b": 10.50, "c": -10, "d": 0, "e": 0.0}',
        '{"a": "\\u000b\\u001a\\u001f\\b\\f\\n\\r\\t\\"\\\\/\x7f\u2028"}',
        '{"b": {}, "aa": {}, "zz": [true, false, null, ""], "\u00fc": []}',
        '{"a": 1' + "0" * 9999 + "}",
        '{"a": ' + "[" * 200 + "]" * 200 + "}",
    ],
)
def test_facts_as_postgresql_writes_them_are_taken(facts: str) -> None:
    verdict = check(linked([text_of(1).replace("{}", facts)]))

    assert verdict.broken is None


@pytest.mark.parametrize("name", ["at", "kind", "run_id", "request_id", "person"])
@pytest.mark.parametrize("value", [None, "x", "", AT[:-1]])
def test_column_that_differs_from_the_text_is_named(name: str, value: str | None) -> None:
    first, second = grown(2)
    beside = columns(**{name: value})
    if beside == columns():
        beside[name] = ID

    verdict = check([replace(first, columns=columns()), replace(second, columns=beside)])

    assert broken(verdict) == (2, f"column {name!r}")


@pytest.mark.parametrize("seq", [0, 1, 3, 5])
def test_noted_head_is_found(seq: int) -> None:
    entries = grown()
    heads = [GENESIS, *(entry.head for entry in entries)]

    assert check(entries, noted=heads[seq]).ok


def test_chain_that_was_written_anew_does_not_hold_the_noted_head() -> None:
    noted = grown()[2].head
    anew = linked([text_of(seq, person="bob") for seq in range(1, 6)])

    assert check(anew).ok
    assert broken(check(anew, noted=noted)) == (3, "the head that was noted")


def test_chain_that_was_cut_off_does_not_hold_the_noted_head() -> None:
    entries = grown()

    verdict = check(entries[:3], noted=entries[4].head)

    assert check(entries[:3]).ok
    assert broken(verdict) == (4, "the head that was noted")
    assert "nothing: the chain ends with entry 3" in str(verdict.broken)


def test_noted_head_before_the_start_of_a_copy_cannot_be_looked_for() -> None:
    entries = grown()

    with pytest.raises(InputInvalid, match="begins after entry 3, so it cannot show entry 2"):
        check_lines(exported(entries[3:]), file="f", noted=entries[1].head)


@pytest.mark.parametrize(
    ("last", "where"),
    [(Head(4, "0" * 64), 5), (Head(6, "0" * 64), 6), (Head(5, "0" * 64), 5), (GENESIS, 5)],
)
def test_chain_that_does_not_end_where_it_must_is_named(last: Head, where: int) -> None:
    checker = Checker()

    assert all(checker.add(entry) for entry in grown())
    assert broken(checker.end(last)) == (where, "the head of the table")


def test_checker_remembers_the_first_broken_link() -> None:
    entries = grown()
    checker = Checker()

    assert checker.add(entries[0])
    assert not checker.add(entries[2])
    assert not checker.add(entries[1])
    assert broken(checker.end(entries[4].head)) == (2, "number")


def test_copy_is_checked_as_the_chain_is() -> None:
    entries = grown()

    verdict = check_lines(iter(exported(entries)), file="f")

    assert verdict == check(entries)
    assert list(read_lines(exported(entries), file="f")) == entries


def test_copy_that_begins_later_is_checked_from_there_and_joined_by_the_noted_head() -> None:
    entries = grown()

    verdict = check_lines(exported(entries[2:]), file="f", noted=entries[1].head)
    other = check_lines(exported(entries[2:]), file="f", noted=Head(2, "a" * 64))

    assert (verdict.ok, verdict.start, verdict.entries) == (True, entries[1].head, 3)
    assert broken(other) == (2, "the head that was noted")


def test_copy_without_its_first_entry_is_checked_from_the_second() -> None:
    entries = grown()

    verdict = check_lines(exported(entries[1:]), file="f")

    assert (verdict.ok, verdict.start, verdict.entries) == (True, entries[0].head, 4)


def test_copy_whose_first_entry_follows_something_is_broken() -> None:
    other = grown(2, Head(0, "1" * 64))

    assert broken(check_lines(exported(other), file="f")) == (1, "hash of the entry before")


@pytest.mark.parametrize("seq", [0, -4])
def test_copy_that_begins_before_the_first_entry_is_broken(seq: int) -> None:
    entries = grown()

    assert broken(check_lines(exported([replace(entries[0], seq=seq)]), file="f")) == (1, "number")


GOOD = line_of(grown(1)[0])


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"null\n",
        b"[1, 2, 3, 4]\n",
        b"[" * 99_999 + b"\n",
        b"1" * 9999 + b"\n",
        b"\xff\n",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD[:-1] + b" \n",
        GOOD.replace(b'"seq": 1', b'"seq": "1"'),
        GOOD.replace(b'"seq": 1', b'"seq": 1.0'),
        GOOD.replace(b'"seq": 1', b'"seq": true'),
        GOOD.replace(b'"seq": 1', b'"seq": 1, "seq": 1'),
        GOOD.replace(b'"seq": 1', b'"seq": 1, "more": 1'),
        GOOD.replace(b'"seq": 1', b'"sequence": 1'),
        GOOD.replace(b"\\u00fc", "ü".encode()),
        GOOD.replace(b"\\u00fc", b"\\u00FC"),
        GOOD.replace(b'"hash": "', b'"hash": "\\u0061'),
    ],
)
def test_line_that_no_export_writes_is_named_with_its_place(line: bytes) -> None:
    with pytest.raises(SpecError, match=r"^copy\.jsonl:2:1: this is not as an export writes it$"):
        check_lines([GOOD, line], file="copy.jsonl")


def test_line_that_is_cut_off_is_named() -> None:
    with pytest.raises(SpecError, match=r"^f:2:1: the line is cut off$"):
        check_lines([GOOD, GOOD[:-1]], file="f")


def test_file_without_entries_is_no_whole_chain() -> None:
    with pytest.raises(SpecError, match=r"^f:1:1: there are no entries in it$"):
        check_lines([], file="f")


def test_line_is_one_line_of_ascii_whatever_the_entry_says() -> None:
    entry = linked([text_of(1, person="a\u2028\u202e\x7f\x85\nb")])[0]

    line = line_of(entry)

    assert line.isascii()
    assert line[:-1].decode().isprintable()
    assert len(line.decode().splitlines()) == 1


@pytest.mark.parametrize("text", ["", "5", "5:", "x:" + "0" * 64, "-1:" + "0" * 64, "5:" + "A" * 64, "5:abc"])
def test_text_that_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InputInvalid, match="is no head"):
        parse_head(text)


def test_head_is_read_as_it_is_written() -> None:
    head = grown()[-1].head

    assert parse_head(f" {head}\n") == head


COPY = b"".join(exported(grown(3))).decode()
LATER = b"".join(exported(grown(4)[1:])).decode()
positions = st.integers(min_value=0, max_value=len(COPY) - 1)
signs = st.one_of(st.sampled_from(sorted(set(COPY) | set("\r\0\x1f \\u+-.eE"))), st.characters())


def changes(copy: str, at: int, sign: str) -> list[str]:
    """Give a copy with one character put in, taken out, and put in the place of another."""
    every = [copy[:at] + sign + copy[at:], copy[:at] + copy[at + 1 :], copy[:at] + sign + copy[at + 1 :]]
    return [changed for changed in every if changed != copy]


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(at=positions, sign=signs)
def test_any_change_of_one_character_is_found(at: int, sign: str) -> None:
    for copy in (COPY, LATER):
        for changed in changes(copy, min(at, len(copy) - 1), sign):
            assert found(changed), changed


def test_every_character_counts() -> None:
    missed = [
        changed
        for at in range(len(COPY))
        for sign in ("0", '"', "\n", " ")
        for changed in changes(COPY, at, sign)
        if not found(changed)
    ]

    assert missed == []
    assert found(COPY + "\n")
    assert not found(COPY)


strings = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    facts=st.lists(
        st.dictionaries(strings, values, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_chain_with_any_facts_is_whole_and_survives_its_copy(facts: list[dict[str, Any]]) -> None:
    entries = linked([text_of(seq, facts=one) for seq, one in enumerate(facts, 1)])

    assert check(entries).broken is None
    assert list(read_lines(exported(entries), file="f")) == entries
