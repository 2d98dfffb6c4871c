"""Git in the sandbox, on a repository that is not trusted.

A repository's own configuration may name programs: hooks, filters, monitors, helpers. Ours is laid
over it so that none of them runs, and what would run all the same has no network and sees nothing
but this repository. Whoever only reads gets it read-only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from penstock.contracts import AgentFailed, Limits, Sandbox, ToolCall, ToolResult

PLACE = "/repository"
"""Where the repository lies in the sandbox."""

BESIDE = "/draft"
"""Where a repository of ours lies, in which a commit is made before the other one gets it."""

_LIMITS = Limits(timeout_s=60, memory_mb=1024, processes=16, output_mb=64)
_CONFIG = {
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.quotePath": "false",
    "core.trustctime": "false",
    "diff.external": "",
    "gc.auto": "0",
    "log.showSignature": "false",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "safe.directory": "*",
    "submodule.recurse": "false",
}
_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_COMMITTER_EMAIL": "penstock@localhost",
    "GIT_COMMITTER_NAME": "Penstock",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}


@dataclass(frozen=True)
class Git:
    """One repository, and the sandbox in which git works on it.

    Args:
        root: The checkout, or the folder of a bare repository.
        folder: Git's own folder, relative to the root: `.git` or nothing.
        files: Whether files are checked out under the root.
        config: Further configuration, on top of everything else.
    """

    sandbox: Sandbox
    root: Path
    folder: str
    files: bool
    config: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def inside(self) -> str:
        """Path of git's folder in the sandbox."""
        return f"{PLACE}/{self.folder}".rstrip("/")

    async def read(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git without letting it write; return what it printed.

        Raises:
            ToolFailed: It ended with an exit code other than 0.
        """
        return (await self.ask(*arguments, stdin=stdin, ok=(0,))).stdout

    async def ask(self, *arguments: str, stdin: bytes = b"", ok: Sequence[int]) -> ToolResult:
        """Run git without letting it write, where more than one exit code is an answer."""
        call = ToolCall(self._argv(arguments), readonly={self.root: PLACE}, stdin=stdin, ok_codes=ok)
        return await self._run(call)

    async def write(self, *arguments: str, stdin: bytes = b"") -> None:
        """Run git and let it write into the repository.

        Raises:
            ToolFailed: It ended with an exit code other than 0.
        """
        await self._run(ToolCall(self._argv(arguments), writable={self.root: PLACE}, stdin=stdin))

    async def beside(self, folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run git on a repository of ours, which may read the objects of this one; return what it printed."""
        call = ToolCall(
            ["git", f"--git-dir={BESIDE}", *arguments],
            readonly={self.root: PLACE},
            writable={folder: BESIDE},
            env={"GIT_ALTERNATE_OBJECT_DIRECTORIES": f"{self.inside}/objects"},
            stdin=stdin,
        )
        return (await self._run(call)).stdout

    async def remove(self, *paths: str) -> None:
        """Remove files, and the folders below the root that are empty without them."""
        above = sorted({str(parent) for path in paths for parent in PurePosixPath(path).parents[:-1]})
        await self._run(ToolCall(["rm", "-f", "--", *paths], writable={self.root: PLACE}))
        if above:
            tidy = ["rmdir", "--ignore-fail-on-non-empty", "--", *reversed(above)]
            await self._run(ToolCall(tidy, writable={self.root: PLACE}, ok_codes=(0, 1)))

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        tree = [f"--work-tree={PLACE}"] if self.files else []
        return ["git", f"--git-dir={self.inside}", *tree, *arguments]

    async def _run(self, call: ToolCall) -> ToolResult:
        env = {**_environment(self.config), **call.env}
        return await self.sandbox.run(replace(call, cwd=PLACE, env=env, limits=_LIMITS))


def _environment(config: Mapping[str, str]) -> dict[str, str]:
    every = [*_CONFIG.items(), *config.items()]
    settings = {"GIT_CONFIG_COUNT": str(len(every))}
    for number, (key, value) in enumerate(every):
        settings |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return _ENVIRONMENT | settings


async def open_repository(path: str, sandbox: Sandbox) -> Git:
    """Find a repository and take the programs out of its configuration.

    Raises:
        AgentFailed: It is missing, not a repository, or keeps its objects or files elsewhere.
    """
    git = locate(path, sandbox)
    settings = _settings(await git.read("config", "--list", "-z"))
    bare = settings.get("core.bare", "false").lower() in {"true", "yes", "on", "1"}
    if "core.worktree" in settings or (git.folder == "" and not bare):
        raise AgentFailed(f"{path!r} keeps its files elsewhere; patch the checkout that it belongs to")
    return replace(git, files=not bare, config=_without_filters(settings))


def _settings(listed: bytes) -> dict[str, str]:
    """Read what `git config --list -z` prints; a key without a value means true."""
    settings: dict[str, str] = {}
    for entry in listed.decode("utf-8", "surrogateescape").split("\0"):
        key, newline, value = entry.partition("\n")
        settings[key] = value if newline else "true"
    return settings


def _without_filters(settings: Iterable[str]) -> dict[str, str]:
    """Give the settings that switch off every filter that a repository configures."""
    drivers = {key.rpartition(".")[0] for key in settings if key.startswith("filter.")}
    off = {"clean": "", "smudge": "", "process": "", "required": "false"}
    return {f"{driver}.{key}": value for driver in sorted(drivers) for key, value in off.items()}


def locate(path: str, sandbox: Sandbox) -> Git:
    """Find the repository; whether git can read it is seen later.

    Raises:
        AgentFailed: It is missing, not a repository, or keeps its objects or files elsewhere.
    """
    if "\0" in path or not Path(path).is_absolute():
        raise AgentFailed(f"repository_path {path!r} is not an absolute path")
    try:
        root = Path(path).resolve(strict=True)
        folder = _folder(root, path)
        if (root / folder / "objects" / "info" / "alternates").exists():
            raise AgentFailed(
                f"{path!r} borrows objects from another repository (objects/info/alternates);"
                " give it its own with 'git repack -a -d' and remove that file"
            )
    except FileNotFoundError:
        raise AgentFailed(f"repository_path {path!r} does not exist") from None
    except (OSError, RuntimeError) as error:  # loops of links, unreadable parents, names too long
        reason = error.strerror if isinstance(error, OSError) else "it is a loop of links"
        raise AgentFailed(f"repository_path {path!r} cannot be read: {reason}") from None
    return Git(sandbox, root, folder, files=folder != "")


def _folder(root: Path, path: str) -> str:
    git = root / ".git"
    if git.is_symlink():
        raise AgentFailed(f"{path!r}: .git is a link; patch the checkout that it belongs to")
    if git.is_file():
        raise AgentFailed(f"{path!r} is a linked worktree or a submodule; patch the main checkout")
    if git.is_dir():
        return ".git"
    if (root / "HEAD").is_file() and (root / "objects").is_dir():
        return ""
    raise AgentFailed(f"{path!r} is not the root of a git repository")
