import pytest

from penstock.errors import SpecError
from penstock.workflow.source import MAX_BYTES, Source, read_source

BAD = {
    "empty": (b"", "1:1", "empty"),
    "only a comment": (b"# a\n", "1:1", "empty"),
    "not utf-8": (b"a: 1\nb: \xff", "2:4", "not valid UTF-8"),
    "half a character in text": ("a: \ud800", "1:4", "not valid UTF-8"),
    "too large": (b"#" * (MAX_BYTES + 1), "1:1", "at most 262144"),
    "too deep": (b"[" * 51, "1:51", "deeper than 50"),
    "anchor": (b"a: &x 1", "1:4", "anchors"),
    "anchor on a mapping": (b"a: &x {b: 1}", "1:4", "anchors"),
    "tag": (b"a: !!str 1", "1:4", "tags"),
    "tag on a list": (b"a: !x [1]", "1:4", "tags"),
    "alias alone": (b"*x", "1:1", "aliases"),
    "alias as a key": (b"*x : 1", "1:1", "aliases"),
    "merge key": (b"<<: {a: 1}", "1:1", "merge keys"),
    "duplicate key": (b"a: 1\nb: 2\na: 3", "3:1", "'a' is already given in line 1"),
    "two documents": (b"a: 1\n---\nb: 1", "2:1", "one document"),
    "directive": (b"%YAML 1.1\n---\na: yes", "2:1", "directives"),
    "number as a key": (b"1: a", "1:1", "a key must be text; quote '1'"),
    "list as a key": (b"? [a]\n: b", "1:3", "a key must be text"),
    "infinite": (b"a: -.inf", "1:4", "finite"),
    "not a number": (b"a: .NaN", "1:4", "finite"),
    "too large a float": (b"a: 1e999", "1:4", "finite"),
    "long number": (b"a: " + b"9" * 41, "1:4", "at most 40"),
    "lone surrogate": (b'a: "\\ud800"', "1:4", "half a character"),
    "control character": (b"a: 1\nb: \x01", "2:4", "control character"),
    "open list": (b"a: [", "1:5", "not valid YAML"),
    "line separator": ("a: 1\nb: 'x\u2028y'", "2:6", r"write the line separator as an escape, \u2028"),
    "tab": (b"a:\n\tb: 1", "2:1", "not valid YAML"),
}


@pytest.mark.parametrize(("content", "place", "hint"), BAD.values(), ids=BAD.keys())
def test_source_refuses(content: bytes | str, place: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_source(content, file="f.yaml")

    assert str(caught.value).startswith(f"f.yaml:{place}: ")
    assert hint in str(caught.value)


def test_source_names_every_mistake_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        read_source("a: &x 1\nb: *x\na: .inf\n", file="f")

    assert [(problem.line, problem.column) for problem in caught.value.problems] == [
        (1, 4),
        (2, 4),
        (3, 1),
        (3, 4),
    ]


def test_source_reads_the_core_schema() -> None:
    text = "a: [1, -2, 0x1F, 0o17, 2.5, 1e3, ~, true, yes, 2020-01-01, 12:30]\nb:\nc: '1'\n"

    source = read_source(text, file="f")

    assert source.data == {
        "a": [1, -2, 31, 15, 2.5, 1000.0, None, True, "yes", "2020-01-01", "12:30"],
        "b": None,
        "c": "1",
    }


def test_source_reads_json() -> None:
    content = b'\xef\xbb\xbf{"a": "\\ud83d\\ude00 \\/ \xc3\xa9",\r\n\t"b": [1.5, null]}'

    assert read_source(content, file="f").data == {"a": "😀 / é", "b": [1.5, None]}


def test_source_keeps_the_place_of_keys_and_values() -> None:
    source = read_source("a:\n  - b: 1\n    c: 'x'\n", file="f")

    assert _place(source, "a", 0, "c") == (3, 8)
    assert source.problem(("a", 0, "c"), "m", key=True).column == 5
    assert source.problem(("a", 0, "zzz", "y"), "m", key=True).line == 2
    assert source.problem(("nope",), "m", offset=3).column == 1


OFFSETS = {
    "plain": "a: one @two",
    "single": "a: 'it''s @x'",
    "double": r'a: "x\n\u00e9\x41\"@x"',
    "surrogates": r'a: "\ud83d\uDE00 @x"',
    "literal": "a: |\n  one\n    two @x\n",
    "folded": "a: >-\n  one\n  two @x\n",
    "folded double": 'a: "one\n  two \\\n  @x"',
    "folded plain": "a: one\n  two\n  @x",
    "start": "a: '@x'",
}


@pytest.mark.parametrize("text", OFFSETS.values(), ids=OFFSETS.keys())
def test_source_finds_characters_inside_a_text(text: str) -> None:
    source = read_source(text, file="f")
    assert isinstance(source.data, dict)
    value = source.data["a"]
    assert isinstance(value, str)

    problem = source.problem(("a",), "m", offset=value.index("@"))

    assert text.split("\n")[problem.line - 1][problem.column - 1] == "@"


def test_source_places_the_end_of_a_text() -> None:
    assert read_source("a: abc", file="f").problem(("a",), "m", offset=3).column == 7


def test_source_places_an_offset_of_what_is_no_text() -> None:
    assert read_source("a: 5", file="f").problem(("a",), "m", offset=0).column == 4


def _place(source: Source, *path: str | int) -> tuple[int, int]:
    problem = source.problem(path, "m")
    return problem.line, problem.column
