"""A run that only waits is suspended in Prefect and holds nothing; this is how it goes and comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import PrefectClient

from penstock.approvals.card import markdown_of
from penstock.approvals.terms import terms_from
from penstock.engine.closing import Closing
from penstock.engine.facts import RunFacts
from penstock.engine.judging import RuleJudge
from penstock.engine.prefect_api import Form, states_of, suspend, take_form
from penstock.engine.scheduler import NodeResult
from penstock.engine.starting import RunStarter
from penstock.errors import ApprovalError, InputInvalid
from penstock.store.approvals import ApprovalRequest, Said, decide, requests_of_run, verdict_of
from penstock.store.audit import record
from penstock.store.database import Database
from penstock.store.passes import take_code
from penstock.store.runs import get_run
from penstock.store.suspension import has_news, suspend_run
from penstock.store.tokens import token_hash

__all__ = ["Suspension", "code_hash"]


@dataclass(frozen=True)
class Suspension:
    """Suspends one run, and reads what people answered in Prefect's own form."""

    database: Database
    client: PrefectClient
    starter: RunStarter
    closing: Closing
    judge: RuleJudge
    facts: RunFacts
    token: int

    async def take_answer(self, round_: int, *, suspended: bool) -> str:
        """Turn what somebody filled in when resuming the run in Prefect into a decision.

        Prefect does not know who presses its buttons, so the form wants a one-time code.

        Args:
            round_: The suspension that was ended; 0 when there was none.
            suspended: Whether it was this entry that ended it.
        Returns:
            Why the gate stays shut, for the next suspension's message; empty otherwise.
        """
        if round_ == 0 or not await self._open():
            return ""
        answer = await take_form(self.client, self.facts.id, _key(round_))
        if answer is not None:
            why = await self._heed(answer)
        elif suspended and not await has_news(self.database, self.facts.id):
            why = "it was resumed without a decision"
        else:
            return ""
        if why:
            facts = {"because": why, "round": round_}
            await record(self.database, kind="gate.bypass", run_id=self.facts.id, facts=facts)
        return why

    async def _heed(self, answer: Mapping[str, Any]) -> str:
        """Count what stands in Prefect's form; gives what is wrong with it."""
        taken = await take_code(self.database, self.facts.id, code_hash(str(answer.get("code", ""))))
        if taken is None:
            return "the code was wrong, or had been used"
        person = self.judge.rules.current().people.find(taken.person, claims=taken.claims)
        try:
            said = Said(
                taken.person,
                verdict_of(str(answer.get("decision", ""))),
                "prefect",
                groups=person.groups if person else frozenset(),
                claims=taken.claims,
                comment=str(answer.get("comment", "")),
            )
            valid_s = terms_from(taken.request.terms).valid_s
            await decide(self.database, taken.request.id, said, judge=self.judge, valid_s=valid_s)
        except (ApprovalError, InputInvalid) as error:
            return error.message
        return ""

    async def suspend(self, waiting: Mapping[str, NodeResult], *, after_round: int, note: str) -> None:
        """Let go of the run until something that it waits for happens.

        The store knows first, then Prefect; whoever decided in between finds a run that cannot be
        resumed yet, so we look once more afterwards.
        """
        words = [note, *(f"{node_id} {result.reason}" for node_id, result in waiting.items())]
        message = "; ".join(word for word in words if word)
        round_ = await suspend_run(self.database, self.facts.id, self.token, message, after_round=after_round)
        asked = await self._open()
        suspended = await suspend(
            self.client,
            self.facts.id,
            key=_key(round_),
            message=message,
            form=_form(asked, note) if asked else None,
        )
        if not suspended and await self._is_over():
            await self.closing.cancelled(self.facts.id)
            return
        limits = self.facts.workflow.workflow.concurrency
        if limits is not None and limits.release_while_waiting:
            await self.closing.call_next(await get_run(self.database, self.facts.id))
        if await has_news(self.database, self.facts.id):
            await self.starter.wake(self.facts.id)

    async def _is_over(self) -> bool:
        """Say whether somebody ended the run in Prefect; if it only moved on there, the sweep takes it up."""
        state = (await states_of(self.client, [self.facts.id])).get(self.facts.id)
        return state is None or state.is_cancelling() or state.is_final()

    async def _open(self) -> Sequence[ApprovalRequest]:
        return await requests_of_run(self.database, self.facts.id)


def code_hash(code: str) -> str:
    """Give what is stored of a one-time code."""
    return token_hash(code.strip())


def _key(round_: int) -> str:
    return f"round-{round_}"


def _form(asked: Sequence[ApprovalRequest], note: str) -> Form:
    cards = "\n\n---\n\n".join(markdown_of(request.card) for request in asked)
    why = note[:1].upper() + note[1:].replace("`", "'")  # in code, a title in it stays text
    intro = f"**`{why}.`**\n\n" if note else ""
    return Form(schema=_schema(asked), description=f"{intro}{cards}\n")


def _schema(asked: Sequence[ApprovalRequest]) -> dict[str, Any]:
    """Give what the form asks for; the command for a code stands at its field, for cards may be long."""
    commands = "; ".join(f"for {item.card['node']}: penstock approvals code {item.id}" for item in asked)
    return {
        "title": "Decision",
        "type": "object",
        "properties": {
            "decision": {
                "title": "Decision",
                "type": "string",
                "enum": ["approve", "reject", "send_back"],
                "position": 0,
            },
            "code": {
                "title": "Code",
                "type": "string",
                "format": "password",
                "description": f"One-time code, {commands}",
                "position": 1,
            },
            "comment": {
                "title": "Comment",
                "type": "string",
                "default": "",
                "position": 2,
            },
        },
        "required": ["decision", "code"],
        "additionalProperties": False,
    }
