"""Apply a patch to a branch of a git repository as one commit, after somebody said yes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import partial

from penstock.contracts import AgentContext, AgentFailed, AgentType, Change, Plan, Risk, agent
from penstock.errors import PenstockError
from penstock_agents.patcher import draft
from penstock_agents.patcher.applying import Conflict, File, Obstacle
from penstock_agents.patcher.diff import FilePatch, render, undoing
from penstock_agents.patcher.git import Git, open_repository
from penstock_agents.patcher.models import PatchConflict, PatcherInput, PatcherOutput
from penstock_agents.patcher.parsing import parse
from penstock_agents.patcher.publishing import Move, MovedMeanwhile, publish, whole
from penstock_agents.patcher.survey import HEADS, Branch, Survey, find_branch, survey, tree

__all__ = ["PatchConflict", "PatcherInput", "PatcherOutput", "patch", "plan", "undo"]

_BACKUPS = f"{HEADS}penstock/backup/"
_SHOWN = 5


@agent(
    name="patcher",
    type=AgentType.MODIFICATION,
    risk=Risk.APPROVAL_REQUIRED,
    capabilities=("git-patch", "file-modification", "backup-restore"),
    timeout_s=120,
)
async def patch(ctx: AgentContext, params: PatcherInput) -> PatcherOutput:
    """Apply a patch to a branch of a git repository, as one commit.

    The patch applies as a whole or not at all. A conflict fails the node and changes nothing. Where
    the branch is checked out, the files of the patch change there too; they must have no changes
    of their own. A backup branch keeps the commit before.
    """
    git = await open_repository(params.repository_path, ctx.sandbox())
    found = await _survey(git, params)
    branch, backup = found.branch, _backup(ctx, params, found.branch)
    if found.conflicts:
        raise _failed(branch, found.conflicts)
    if ctx.dry_run:
        return PatcherOutput(
            applied=False, files_modified=[], backup_path="", commit="", previous_commit=branch.commit
        )
    made = await draft.make(
        git, ctx.workspace, branch.commit, found.edits, _message(ctx, params, found.patch)
    )
    move = Move(branch.ref, branch.commit, made.commit, backup=backup, files=_files(found))
    await _carry_out(ctx, git, branch, move, made.pack, may_stay=False)
    for item in found.patch:
        ctx.logger.info("file_patched", file=item.path, action=item.action, detail=item.detail)
    ctx.logger.info("patch_applied", branch=branch.name, commit=made.commit, backup=backup)
    return PatcherOutput(
        applied=True,
        files_modified=sorted(found.edits),
        backup_path=backup,
        commit=made.commit,
        previous_commit=branch.commit,
    )


@patch.plan
async def plan(ctx: AgentContext, params: PatcherInput) -> Plan:
    """Tell what the patch would change, and what stands in its way.

    The plan names the content of the files before and after, and not the commit: commits that leave
    these files alone do not void an approval.
    """
    git = await open_repository(params.repository_path, ctx.sandbox())
    found = await _survey(git, params)
    branch, backup = found.branch, _backup(ctx, params, found.branch)
    where = f"branch {branch.name} of {git.root}"
    trouble = f"Cannot be applied: {_told(found.conflicts)}. " if found.conflicts else ""
    return Plan(
        summary=f"{trouble}Patch {_counted(found.patch)} on {where}",
        targets=[str(git.root), *sorted(f"{git.root}/{path}" for item in found.patch for path in item.paths)],
        changes=[_change(item, found) for item in found.patch],
        diff=render(found.patch),
        undo=f"{branch.name} goes back to the commit before"
        f"{', which a backup branch of the run keeps' if backup else ''};"
        " after further commits, a commit reverts the patch.",
        data={
            "branch": branch.name,
            "backup": bool(backup),  # its name holds the run's, which is no part of what is approved
            "working_tree": branch.checked_out,
            "patch_sha256": _digest(params),
            "files": _contents(found),
            "conflicts": _listed(found.conflicts),
        },
    )


@patch.undo
async def undo(ctx: AgentContext, params: PatcherInput, output: PatcherOutput) -> None:
    """Take the patch back: the commit goes, or a commit reverts it when others came on top.

    Doing it twice does nothing more. The backup branch goes with it: what it kept is in the branch.
    """
    if ctx.dry_run or not output.applied:
        return
    git = await open_repository(params.repository_path, ctx.sandbox())
    branch = await find_branch(git, params.target_branch)
    there = await _contains(git, branch, output.commit)
    if there and await _is_reverted(git, branch, output.commit):
        ctx.logger.info("patch_undone_before", branch=branch.name, commit=output.commit)
        return
    patched = parse(params.patch_content)
    before = await tree(git, output.previous_commit, patched) if there else {}
    modes = {path: file.mode for path, file in before.items() if isinstance(file, File)}
    found = await survey(git, branch, undoing(patched, modes))
    changed = any(not conflict.already for conflict in found.applied.conflicts)
    if (changed and not there) or not (changed or found.edits):
        ctx.logger.warning("patch_not_there", branch=branch.name, commit=output.commit)
        return
    stuck = [conflict for conflict in found.conflicts if not conflict.already]
    if stuck:
        raise _stuck(branch, stuck, output)
    await _take_out(ctx, git, found, output)


async def _take_out(ctx: AgentContext, git: Git, found: Survey, output: PatcherOutput) -> None:
    branch, new, pack = found.branch, output.previous_commit, b""
    if branch.commit != output.commit:
        words = f"Take back {_counted(found.patch)}\n\nThis reverts commit {output.commit}.\n{_trailers(ctx)}"
        made = await draft.make(git, ctx.workspace, branch.commit, found.edits, words)
        new, pack = made.commit, made.pack
    kept = branch.heads.get(output.backup_path.removeprefix(HEADS)) == output.previous_commit
    move = Move(
        branch.ref,
        branch.commit,
        new,
        drop=output.backup_path if kept else "",
        dropped=output.previous_commit,
        files=_files(found),
    )
    await _carry_out(ctx, git, branch, move, pack, may_stay=True)
    ctx.logger.info("patch_undone", branch=branch.name, commit=output.commit, now=new)


async def _survey(git: Git, params: PatcherInput) -> Survey:
    branch = await find_branch(git, params.target_branch)
    return await survey(git, branch, parse(params.patch_content))


async def _carry_out(
    ctx: AgentContext, git: Git, branch: Branch, move: Move, pack: bytes, *, may_stay: bool
) -> None:
    """Move the branch; when cancelled meanwhile take that back, unless it may stay."""
    words = f"penstock: run {ctx.run_id}, node {ctx.node_id}"
    take_back = None if may_stay else partial(_take_back, ctx, git, move.back())
    try:
        await whole(publish(git, move, pack, words), take_back)
    except MovedMeanwhile:
        raise _failed(branch, [Conflict("", "the branch was moved while the patch was applied")]) from None


async def _take_back(ctx: AgentContext, git: Git, move: Move) -> None:
    """Take back the move of a run that was cancelled while it moved the branch."""
    failure = ""
    try:
        await publish(git, move, b"", f"penstock: run {ctx.run_id} was cancelled")
    except (MovedMeanwhile, PenstockError) as error:
        failure = str(error)
    if failure:
        ctx.logger.error("patch_not_taken_back", ref=move.ref, commit=move.old, reason=failure)


async def _contains(git: Git, branch: Branch, commit: str) -> bool:
    """Say whether a commit is part of a branch; one that is gone is not."""
    asked = await git.ask("merge-base", "--is-ancestor", commit, branch.commit, ok=(0, 1, 128))
    return asked.exit_code == 0


async def _is_reverted(git: Git, branch: Branch, commit: str) -> bool:
    words = f"This reverts commit {commit}"
    commits = f"{commit}..{branch.commit}"
    return bool(await git.read("log", "-1", "--format=%H", "--fixed-strings", f"--grep={words}", commits))


def _backup(ctx: AgentContext, params: PatcherInput, branch: Branch) -> str:
    """Choose the ref of the backup branch; empty when none is wanted."""
    if not params.create_backup:
        return ""
    for taken in ("penstock", "penstock/backup"):
        if taken in branch.heads:
            raise AgentFailed(
                f"the branch {taken!r} leaves no room for backup branches;"
                " rename it or set create_backup to false"
            )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{ctx.run_id}-{ctx.node_id}")
    ref, number = _BACKUPS + name, 1
    while ref.removeprefix(HEADS) in branch.heads:
        number += 1
        ref = f"{_BACKUPS}{name}-{number}"
    return ref


def _files(found: Survey) -> dict[str, tuple[str, str]]:
    """Name the content before and after of the files that change in the working tree."""
    if not found.branch.checked_out:
        return {}
    return {
        path: (_name(found, found.tree.get(path)), _name(found, file)) for path, file in found.edits.items()
    }


def _name(found: Survey, file: File | Obstacle | None) -> str:
    return draft.blob_name(file.data, found.branch.commit) if isinstance(file, File) else ""


def _contents(found: Survey) -> dict[str, dict[str, str]]:
    """Describe what is under each path before and after: mode and name of the content."""

    def told(file: File | Obstacle | None) -> str:
        return f"{file.mode} {_name(found, file)}" if isinstance(file, File) else file.what if file else ""

    touched = {path for item in found.patch for path in item.paths}
    return {
        path: {"before": told(found.tree.get(path)), "after": told(found.edits.get(path))}
        for path in sorted(touched)
    }


def _change(item: FilePatch, found: Survey) -> Change:
    conflicts = [conflict.reason for conflict in found.conflicts if conflict.file in item.paths]
    notes = [*found.applied.notes.get(item.path, ()), *(f"conflict: {reason}" for reason in conflicts)]
    return Change(item.path, item.action, "; ".join(filter(None, [item.detail, *notes])))


def _counted(patched: Sequence[FilePatch]) -> str:
    return patched[0].path if len(patched) == 1 else f"{len(patched)} files"


def _digest(params: PatcherInput) -> str:
    return hashlib.sha256(params.patch_content.encode()).hexdigest()


def _message(ctx: AgentContext, params: PatcherInput, patched: Sequence[FilePatch]) -> str:
    return f"Patch {_counted(patched)}\n\n{_trailers(ctx)}Penstock-Patch: sha256:{_digest(params)}\n"


def _trailers(ctx: AgentContext) -> str:
    return f"Penstock-Run: {ctx.run_id}\nPenstock-Node: {ctx.node_id}\n"


def _listed(conflicts: Sequence[Conflict]) -> list[dict[str, str]]:
    return [{"file": conflict.file, "reason": conflict.reason} for conflict in conflicts]


def _told(conflicts: Sequence[Conflict]) -> str:
    shown = [f"{item.file}: {item.reason}" if item.file else item.reason for item in conflicts[:_SHOWN]]
    more = f"; {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
    return "; ".join(shown) + more


def _failed(branch: Branch, conflicts: Sequence[Conflict]) -> AgentFailed:
    details = {"applied": False, "files_modified": [], "backup_path": "", "conflicts": _listed(conflicts)}
    return AgentFailed(f"the patch cannot be applied to {branch.name}: {_told(conflicts)}", details=details)


def _stuck(branch: Branch, conflicts: Sequence[Conflict], output: PatcherOutput) -> AgentFailed:
    kept = output.backup_path or output.previous_commit
    return AgentFailed(
        f"the patch cannot be taken out of {branch.name}: {_told(conflicts)}."
        f" Clear that and undo again, or run 'git revert {output.commit}' by hand;"
        f" the commit before the patch is kept in {kept}",
        details={"commit": output.commit, "backup_path": output.backup_path, "conflicts": _listed(conflicts)},
    )
