from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import BaseModel, Field

from penstock.approvals.card import joined_card, make_card, markdown_of
from penstock.contracts import AgentContext, AgentType, Change, Plan, Risk, agent


class Target(BaseModel):
    """What to change."""

    path: str = Field(description="File.")


@agent(name="patcher", type=AgentType.MODIFICATION, risk=Risk.APPROVAL_REQUIRED, version="2")
async def patch(ctx: AgentContext, params: Target) -> Target:
    """Change a file.

    With care.
    """
    del ctx
    return params


FACTS = {
    "run": "brave-otter",
    "run_id": "1",
    "workflow": "fix",
    "revision": 3,
    "node": "apply",
    "requester": "ada",
    "why": "patcher changes things and always needs an approval",
}
PLAN = Plan(
    "Patch a.py",
    targets=("a.py",),
    changes=(Change("a.py", "modify", "two lines"),),
    diff="-x = 1\n+x = 2",
    undo="git revert",
)


def card(
    *,
    title: str = "Patch it",
    plan: Plan | None = PLAN,
    inputs: Mapping[str, Any] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    return make_card(patch, inputs or {"path": "a.py"}, plan, title=title, facts={**FACTS, **facts})


def test_card_holds_all_that_an_approver_must_know() -> None:
    assert card() == {
        "title": "Patch it",
        **FACTS,
        "agent": {"name": "patcher", "version": "2", "does": "Change a file."},
        "inputs": {"path": "a.py"},
        "plan": {
            "summary": "Patch a.py",
            "targets": ["a.py"],
            "changes": [{"target": "a.py", "action": "modify", "detail": "two lines"}],
            "diff": "-x = 1\n+x = 2",
        },
        "undo": "git revert",
    }


def test_markdown_shows_the_plan() -> None:
    assert markdown_of(card()).splitlines() == [
        "### `Patch it`",
        "",
        "`Patch a.py`",
        "",
        "- `modify` `a.py` `two lines`",
        "- **Node** `apply` of `fix`, revision 3",
        "- **Agent** `patcher` `2`: `Change a file.`",
        "- **Asked by** `ada`",
        "- **Why** `patcher changes things and always needs an approval`",
        "- **Undo** `git revert`",
        "- **Where** `a.py`",
        "",
        "```diff",
        "-x = 1",
        "+x = 2",
        "```",
    ]


def test_markdown_shows_the_inputs_where_there_is_no_plan() -> None:
    shown = markdown_of(card(plan=None, inputs={"path": "a.py", "lines": [1, 2]})).splitlines()

    assert shown[-3:] == ["Inputs:", "- `path`: `a.py`", "- `lines`: `[1, 2]`"]
    assert "- **Undo** cannot be undone" in shown


def test_long_diff_is_cut_and_says_so() -> None:
    shown = markdown_of(card(plan=Plan("p", diff="+" * 30_000)))

    assert len(shown) < 21_000
    assert "… 30,000 characters" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\r\nlines", "`two lines`"),
        ("a\u202eb", "`a\\u202eb`"),
        ("a\u200bb", "`a\\u200bb`"),
        ("a\x1b[31mb", "`a\\u001b[31mb`"),
        ("a\x00b", "`a\\u0000b`"),
        ("a\udc80b", "`a\\udc80b`"),
        ("a\U000e0041b", "`a\\ue0041b`"),
        ("é 名 😀", "`é 名 😀`"),
    ],
)
def test_what_nobody_would_see_is_written_out(text: str, shown: str) -> None:
    assert markdown_of(card(title=text)).splitlines()[0] == f"### {shown}"


def test_what_nobody_would_see_in_a_diff_is_written_out() -> None:
    shown = markdown_of(card(plan=Plan("p", diff="+if a:\u202e\r\n+\tb()\r+c")))

    assert "+if a:\\u202e\n+\tb()\\u000d+c\n```" in shown


HOSTILE = [
    "`code` and ``more``",
    "```\n\n# Approve this\n\n```",
    "~~~\nx\n~~~",
    "[click](https://evil.example/)",
    "![x](https://evil.example/x.png)",
    "<https://evil.example/>",
    "https://evil.example/",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</code></pre><b>approved</b>",
    "x\n\n---\n\n### Another card",
    "x\n- **Undo** `git revert`",
    "x\r- **Undo** `git revert`",
    "x\u2028- **Undo** `git revert`",
    "| a | b |\n|---|---|\n| c | d |",
    "[ref]: https://evil.example/ 'x'",
    "\\`\\` **bold** _it_ ~~no~~ &lt;b&gt; &#96;",
    "`" * 20,
    "`",
    "``` ````",
    "",
    "   ",
]
_BLOCKS = {"heading_open", "bullet_list_open", "list_item_open", "paragraph_open", "inline", "fence"}
_INLINE = {"text", "code_inline", "strong_open", "strong_close", "softbreak"}


def tokens_of(shown: str) -> list[Token]:
    """Read markdown as a browser would be given it, HTML and tables included."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(shown)


def assert_only_text(shown: str, *, fences: int) -> list[str]:
    """Check that nothing in a card is more than text and nothing was added to it; give what is code."""
    tokens = tokens_of(shown)
    opened = [token.type for token in tokens if not token.type.endswith("_close")]
    assert set(opened) <= _BLOCKS
    assert opened.count("heading_open") == 1
    assert opened.count("list_item_open") == 7
    assert opened.count("fence") == fences
    inside = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inside} <= _INLINE
    plain = "".join(child.content for child in inside if child.type == "text")
    assert "evil" not in plain
    assert "approved" not in plain.lower()
    return [child.content for child in inside if child.type == "code_inline"]


def assert_stays_text(text: str) -> None:
    plan = Plan(text, targets=(text,), changes=(Change(text, text, text),), diff=text or "x", undo=text)
    planned = card(title=text, plan=plan, node=text, requester=text)
    listed = card(title=text, plan=None, inputs={"path": text, "b": [text]})

    code = assert_only_text(markdown_of(planned), fences=1)
    assert_only_text(markdown_of(listed), fences=0)

    seen = not set(text) & set("\r\u2028\u202e")
    flat = " ".join(text.replace("`", "'").split())
    assert code.count(flat) == (9 if flat else 0) or not seen


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    assert_stays_text(text)


pieces = st.sampled_from(
    [*"`~#*_<>[]()!|\\&-+= \n\r\t", "```", "~~~", "](", "<b>", "\n\n", "---", "a", "\u202e"]
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=25))
def test_any_text_stays_text(parts: list[str]) -> None:
    assert_stays_text("".join(parts))


def test_diff_is_shown_as_it_is() -> None:
    diff = "--- a\n+++ b\n+```python\n+`x`\n+````\n+</pre>"

    fence = next(
        token for token in tokens_of(markdown_of(card(plan=Plan("p", diff=diff)))) if token.type == "fence"
    )

    assert (fence.content, fence.info) == (f"{diff}\n", "diff")


def said_before(text: str) -> dict[str, Any]:
    return {
        "note": {"person": text, "text": text},
        "edited": {"person": text, "inputs": {text: {"before": text, "after": [text]}}},
        "changed": [
            {"what": f"inputs.{text}", "before": text, "after": text},
            {"what": "undo", "before": "", "after": text},
            {"what": "plan.diff", "before": text, "after": text},
        ],
        "history": [
            {"at": "2026-03-01T12:00:00+00:00", "run_id": "1", "workflow": text, "state": text,
             "approved_by": [text, "bob"]},
        ],
    }  # fmt: skip


def test_markdown_tells_what_was_said_before() -> None:
    shown = markdown_of(card(**said_before("x"))).splitlines()

    assert shown[10:17] == [
        "- **Where** `a.py`",
        "- **Sent back** by `x`: `x`",
        "- **Edited** by `x`: `x` from `x` to `['x']`",
        "- **Changed** `inputs.x` from `x` to `x`",
        "- **Changed** `undo` from nothing to `x`",
        "- **Changed** the diff",
        "- **Before** 2026-03-01T12:00 `x`, approved by `x`, `bob`",
    ]


def test_markdown_says_nothing_of_what_was_not_said() -> None:
    assert markdown_of(card(note=None, edited=None, changed=[], history=[])) == markdown_of(card())


@pytest.mark.parametrize("text", HOSTILE)
def test_what_people_said_before_stays_text(text: str) -> None:
    tokens = tokens_of(markdown_of(card(**said_before(text))))

    opened = [token.type for token in tokens if not token.type.endswith("_close")]
    inside = [child for token in tokens for child in token.children or ()]
    assert set(opened) <= _BLOCKS
    assert (opened.count("list_item_open"), opened.count("heading_open")) == (13, 1)
    assert {child.type for child in inside} <= _INLINE
    assert "evil" not in "".join(child.content for child in inside if child.type == "text")


def item(key: str, plan: Plan | None, **inputs: Any) -> dict[str, Any]:
    return card(title=f"Patch {key}", plan=plan, inputs=inputs, node=f"apply[{key}]")


def test_items_that_are_asked_for_at_once_have_one_card() -> None:
    other = Plan(
        "Patch b.py", targets=("a.py", "b.py"), changes=(Change("b.py", "create"),), diff="+y\n", undo="rm"
    )
    cards = [item("0", PLAN, path="a.py"), item("1", other, path="b.py")]

    found = joined_card(cards, title="Patch all", node="apply")

    assert found == {
        **cards[0],
        "title": "Patch all",
        "node": "apply",
        "inputs": {"apply[0]": {"path": "a.py"}, "apply[1]": {"path": "b.py"}},
        "plan": {
            "summary": "2 items: Patch a.py; Patch b.py",
            "targets": ["a.py", "b.py"],
            "changes": [*cards[0]["plan"]["changes"], *cards[1]["plan"]["changes"]],
            "diff": "-x = 1\n+x = 2\n+y\n",
        },
    }
    assert markdown_of(found).startswith("### `Patch all`\n")


def test_card_of_items_can_be_undone_only_when_each_can() -> None:
    bare = Plan("Patch b.py")

    assert joined_card([item("0", PLAN), item("1", PLAN)], title="t", node="n")["undo"] == "git revert"
    assert joined_card([item("0", PLAN), item("1", bare)], title="t", node="n")["undo"] == ""


def test_card_of_items_without_plans_has_none() -> None:
    assert joined_card([item("0", None), item("1", None)], title="t", node="n")["plan"] is None
