"""Prefect's own form as a decision: whoever has signed in needs no code to say who it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from penstock.approvals.people import Person
from penstock.engine.services import Services
from penstock.errors import ApprovalError, InputInvalid, NotFound, StaleDecision
from penstock.store.approvals import ApprovalRequest
from penstock.store.runs import get_run
from penstock.store.states import RunState

__all__ = ["Answer", "Outcome", "decide_run", "json_of", "mapping_of", "read_answer", "without_code"]

_KEY = re.compile(r".*/round-(\d+)-schema")
_BOUND = re.compile(r"decision_(\d{1,9})")
_LONGEST = 4000
_WANTED = "give a decision: approve, reject or send_back"


@dataclass(frozen=True)
class Answer:
    """What somebody put into the form."""

    decision: str
    comment: str = ""
    round: int | None = None
    """The suspension that the form was made for; None when the answer does not come from our form."""


@dataclass(frozen=True)
class Outcome:
    """What came of an answer."""

    accepted: bool
    reason: str = ""
    """Why the run does not go on; empty when it does."""

    def result(self, state: Any) -> dict[str, Any]:
        """Tell it as Prefect tells what came of resuming a run.

        Args:
            state: State of the run in Prefect, as JSON.
        """
        if self.accepted:
            return {"status": "ACCEPT", "state": state, "details": {"type": "accept_details"}}
        details = {"type": "reject_details", "reason": self.reason}
        return {"status": "REJECT", "state": state, "details": details}


def without_code(path: str, text: str) -> str:
    """Give the schema of a form as somebody gets it who has signed in.

    The code is left out, and the decision gets a name that tells the suspension: the answer to a
    form that showed other cards than those of now can be told then.

    Args:
        path: Path that the schema was asked for under; it ends with the name that the engine gave it.
        text: The schema, as JSON; one that is not of a decision of ours stays as it is.
    """
    named = _KEY.fullmatch(path)
    schema: Any = json_of(text)
    properties = mapping_of(mapping_of(schema).get("properties"))
    if named is None or not {"decision", "code"} <= properties.keys():
        return text
    shown = {f"decision_{named[1]}" if name == "decision" else name: one for name, one in properties.items()}
    del shown["code"]
    required = [name for name in shown if name.startswith("decision_")]
    return json.dumps({**mapping_of(schema), "properties": shown, "required": required})


def read_answer(body: bytes) -> Answer:
    """Read what was sent to resume a run.

    Raises:
        InputInvalid: It is no decision.
    """
    fields = dict(mapping_of(mapping_of(json_of(body)).get("run_input")))
    fields.pop("code", None)  # it tells who somebody is, which is known here
    comment = fields.pop("comment", None) or ""
    if not fields:
        raise InputInvalid(_WANTED)
    name, decision = fields.popitem()
    bound = _BOUND.fullmatch(name)
    if fields or not (name == "decision" or bound):
        raise InputInvalid(f"{next(iter(fields), name)!r} is no field of this form")
    if not isinstance(decision, str) or not isinstance(comment, str) or len(comment) > _LONGEST:
        raise InputInvalid(f"decision and comment are text, the comment of at most {_LONGEST} characters")
    return Answer(decision, comment, int(bound[1]) if bound else None)


async def decide_run(
    services: Services, requests: Sequence[ApprovalRequest], answer: Answer, *, person: Person
) -> Outcome:
    """Count an answer to what a run asks for.

    Args:
        requests: The open requests of the run, one at least.
    """
    try:
        if answer.round is not None:
            await _check_round(services, requests[0].run_id, answer.round)
        request = _meant(services, requests, person)
        decided = await services.approvals.decide(
            request.id, answer.decision, person=person, comment=answer.comment, via="prefect"
        )
    except (ApprovalError, InputInvalid, NotFound) as error:
        return Outcome(accepted=False, reason=error.message)
    if decided["state"] == "open":
        return Outcome(accepted=False, reason=f"counted: it still needs {decided['needs']}")
    return Outcome(accepted=True)


async def _check_round(services: Services, run_id: UUID, round_: int) -> None:
    """Refuse what was decided at the sight of other cards.

    While a run stays suspended no request is opened, so all that are open stand in its form.
    """
    run = await get_run(services.database, run_id)
    if run.state is not RunState.SUSPENDED or run.round != round_:
        raise StaleDecision("what the run asks for has changed since this form was opened; look again")


def _meant(services: Services, requests: Sequence[ApprovalRequest], person: Person) -> ApprovalRequest:
    """Find the request that is decided: the only one, or the only one that this person may decide."""
    judge = services.approvals.judge
    mine = [request for request in requests if not judge.why_not(request, person)]
    for few in (requests, mine):
        if len(few) == 1:
            return few[0]
    raise InputInvalid(
        f"{len(requests)} requests of this run are open and the form cannot say which one is meant;"
        f" decide at {services.approvals.links.gateway}/approvals"
    )


def json_of(text: str | bytes) -> Any:
    """Read JSON; None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def mapping_of(value: Any) -> Mapping[str, Any]:
    """Give an object of JSON; an empty one for everything else."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
