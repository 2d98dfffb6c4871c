"""Tells people that they are asked for approval, by the notification blocks that the operator names."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.approvals.terms import terms_from
from penstock.engine.blocks import load_block
from penstock.engine.judging import RuleJudge
from penstock.engine.links import Links
from penstock.errors import PenstockError
from penstock.store.approvals import ApprovalRequest, get_approval
from penstock.store.database import Database
from penstock.store.notices import Notice, notice_failed, notices_done, take_notices
from penstock.store.passes import make_link
from penstock.store.states import ApprovalState
from penstock.store.tokens import token_hash
from penstock_blocks.sending import Addresses, Level, Message, line, plain, send_all

__all__ = ["Notifier"]

_MOST_TRIES = 8
_HEADLINES = {
    "asked": "Approval needed",
    "reminder": "Still waiting for approval",
    "escalated": "Escalated: approval needed",
}

log = logging.getLogger(__name__)


async def _block(name: str) -> Any:
    return await load_block({name: name}, name)


@dataclass(frozen=True)
class Notifier:
    """Sends what the outbox holds; any number of workers may do so at once."""

    database: Database
    judge: RuleJudge
    links: Links
    blocks: Sequence[str]
    """Names of notification blocks; without any nobody is told."""
    load: Callable[[str], Awaitable[Any]] = _block
    send: Callable[[Sequence[str], Message], list[str]] = send_all
    """Sends to addresses and gives, for each, what went wrong."""

    async def send_due(self) -> None:
        """Send what is due."""
        for notice in await take_notices(self.database):
            request = await get_approval(self.database, notice.request_id)
            if self.blocks and request.state is ApprovalState.OPEN:
                await self._tell(notice, request)
            else:
                await notices_done(self.database, notice.id)

    async def _tell(self, notice: Notice, request: ApprovalRequest) -> None:
        """Send one notice to every block; all of them get it again when one of them fails."""
        token = secrets.token_urlsafe(24)
        await make_link(self.database, request.id, link_hash=token_hash(token))
        message = self._message(notice, request, self.links.arrival(token))
        problems = [problem for name in self.blocks if (problem := await self._to_block(name, message))]
        if not problems:
            await notices_done(self.database, notice.id)
            return
        log.warning("request %s: nobody was told by %s", request.id, "; ".join(problems))
        last = notice.tries >= _MOST_TRIES
        await notice_failed(self.database, notice.id, "; ".join(problems), last=last)

    async def _to_block(self, name: str, message: Message) -> str:
        """Give what went wrong, without addresses; empty when it was sent."""
        try:
            block = await self.load(name)
            if not isinstance(block, Addresses):
                return f"block {name!r} holds no notification addresses"
            outcomes = await asyncio.to_thread(self.send, block.addresses(), message)
        except PenstockError as error:
            return error.message
        except Exception as error:  # noqa: BLE001  its text may quote an address
            return f"block {name!r} could not be used: {type(error).__name__}"
        failed = sum(1 for outcome in outcomes if outcome)
        return f"block {name!r}: {failed} of {len(outcomes)} addresses failed" if failed else ""

    def _message(self, notice: Notice, request: ApprovalRequest, link: str) -> Message:
        card, terms = request.card, terms_from(request.terms)
        plan: Mapping[str, Any] = card.get("plan") or {}
        people = terms.people(escalated=request.escalated_at is not None)
        facts: tuple[tuple[str, str], ...] = (
            ("What", str(plan.get("summary", ""))),
            ("Where", ", ".join(plan.get("targets", ()))),
            ("Why", str(card.get("why", ""))),
            ("Asked by", terms.requester),
            ("Run", f"{card.get('run')} of {card.get('workflow')}, node {request.label}"),
            ("Needs", self.judge.tally(request).needs),
            ("Who", ", ".join(people) or "any approver"),
            ("Until", request.expires_at.strftime("%Y-%m-%d %H:%M UTC") if request.expires_at else ""),
        )
        lines = [f"{label}: {line(value)}" for label, value in facts if value]
        body = "\n".join([*lines, "", f"Decide: {link}", "(good once, after you have signed in)"])
        title = line(f"{_HEADLINES[notice.kind]}: {request.title}")
        return Message(title, plain(body, 4000), Level.WARNING)
