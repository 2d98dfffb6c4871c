"""Move a branch, with its working tree, from one commit to another: all of it or nothing.

The branch moves by compare-and-swap: if it does not point at the commit that was looked at, it
stays. The backup branch is made or dropped in the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.contracts import AgentFailed
from penstock.errors import SandboxError, ToolKilled
from penstock_agents.patcher.git import Git

_BY_TIME_AND_SIZE = {"core.checkStat": "minimal"}
"""In the sandbox files seem to belong to somebody else; that must not count as a change."""


@dataclass(frozen=True)
class Move:
    """What is to happen to a branch."""

    ref: str
    old: str
    new: str
    backup: str = ""
    """Ref of the backup branch that is made for the old commit; empty when none is."""
    drop: str = ""
    """Ref of the backup branch that goes; it points at the commit `dropped`."""
    dropped: str = ""
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """What changes in the working tree: path -> names of the content before and after, empty for
    no file; nothing when the branch is not checked out."""

    def back(self) -> Move:
        """Give the move that takes this one back; a backup that was dropped stays dropped."""
        files = {path: (after, before) for path, (before, after) in self.files.items()}
        return Move(self.ref, self.new, self.old, drop=self.backup, dropped=self.old, files=files)

    def transaction(self) -> bytes:
        """Write it in the language of `git update-ref --stdin -z`."""
        text = f"update {self.ref}\0{self.new}\0{self.old}\0"
        text += f"create {self.backup}\0{self.old}\0" if self.backup else ""
        text += f"delete {self.drop}\0{self.dropped}\0" if self.drop else ""
        return text.encode()


class MovedMeanwhile(Exception):  # noqa: N818  it names what happened
    """Somebody else moved the branch."""

    def __str__(self) -> str:
        return "somebody else moved the branch meanwhile"


async def publish(git: Git, move: Move, pack: bytes, reason: str) -> None:
    """Carry out a move; when it cannot be done to the end, everything is as before.

    Args:
        pack: Objects that the repository needs for it.
        reason: Words for the branch's log.
    Raises:
        MovedMeanwhile: Somebody else moved the branch.
        AgentFailed: The working tree or the branch could not be changed.
    """
    if pack:
        await git.write("unpack-objects", "-q", stdin=pack)
    await _switch(git, move)
    try:
        await git.write("update-ref", "-m", reason, "--stdin", "-z", stdin=move.transaction())
    except SandboxError as error:
        now = await git.ask("rev-parse", "--verify", "--quiet", move.ref, ok=(0, 1))
        commit = now.stdout.decode().strip()
        if commit == move.new:  # it was killed when it had done its work
            return
        await _switch(git, move.back())
        if commit != move.old:
            raise MovedMeanwhile from None
        raise AgentFailed(f"the branch could not be moved: {error.message}") from None


async def _switch(git: Git, move: Move) -> None:
    """Change the working tree and the index; git looks at every file first and writes then."""
    if not move.files:
        return
    quick = replace(git, config={**git.config, **_BY_TIME_AND_SIZE})
    try:
        await quick.write("read-tree", "-m", "-u", move.old, move.new)
    except SandboxError as error:
        if isinstance(error, ToolKilled):  # it had the lock, and nobody else gives that back
            await git.remove(f"{git.folder}/index.lock")
        if await _is_done(git, move):
            return
        await _restore(git, move)
        raise AgentFailed(f"the working tree could not be changed: {error.message}") from None


async def _is_done(git: Git, move: Move) -> bool:
    """Say whether the index is that of the new commit: git writes it last."""
    compared = ("diff-index", "--cached", "--quiet", move.new, "--", *move.files)
    return (await git.ask(*compared, ok=(0, 1))).exit_code == 0


async def _restore(git: Git, move: Move) -> None:
    """Take back what a switch did before it failed; what somebody else changed stays as it is."""
    present = [path for path in move.files if (git.root / path).is_file()]
    named = await git.read(
        "hash-object", "--stdin-paths", stdin="".join(f"{path}\n" for path in present).encode()
    )
    now = dict(zip(present, named.decode().split(), strict=True))
    ours = {path: before for path, (before, after) in move.files.items() if now.get(path, "") == after}
    known = "".join(f"{path}\0" for path, before in ours.items() if before)
    if known:
        await git.write("checkout-index", "--force", "--quiet", "-z", "--stdin", stdin=known.encode())
    made = [path for path, before in ours.items() if not before]
    if made:
        await git.remove(*made)


async def whole(work: Coroutine[Any, Any, None], take_back: Callable[[], Awaitable[None]] | None) -> None:
    """Do something to its end, also when cancelled meanwhile: git must not be stopped halfway.

    Args:
        take_back: Undoes the work when it succeeded though it was cancelled; must not fail.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        if take_back is not None and task.exception() is None:
            await _ended(asyncio.ensure_future(take_back()))
        raise


async def _ended(task: asyncio.Future[None]) -> None:
    """Wait for the end of a task, however often the caller is cancelled."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
