from __future__ import annotations

from typing import Any

import pytest

from penstock.approvals.gate import ClosedGate, GateRequest, SaidBefore
from penstock.errors import ApprovalError


@pytest.mark.parametrize(
    ("said", "nothing", "scope"),
    [
        (SaidBefore(), True, {"round": 1}),
        (SaidBefore(round=2, note="smaller"), False, {"round": 2, "note": "smaller"}),
        (SaidBefore(round=2), False, {"round": 2}),
        (SaidBefore(note=""), False, {"round": 1, "note": ""}),
        (SaidBefore(edits={"n": None}), False, {"round": 1}),
    ],
)
def test_what_was_said_before_is_what_expressions_see(
    said: SaidBefore, scope: dict[str, Any], *, nothing: bool
) -> None:
    assert (said.nothing, said.scope) == (nothing, scope)
    assert said.now.tzinfo is not None


async def test_closed_gate_lets_nothing_through() -> None:
    gate = ClosedGate()

    assert (await gate.before("apply", "")).nothing
    assert not (await gate.granted("apply")).digests
    with pytest.raises(ApprovalError, match="agent 'patcher' needs an approval, and there is nobody here"):
        await gate.ask(GateRequest("apply", "patcher", "d"))
