"""One interface to run tools apart from the host, with several backends.

`select(settings)` gives the backend, `probe(settings)` tries it. Every backend is a
`penstock.contracts.Sandbox`; the scanners that it runs live in an environment of their own
(`penstock.sandbox.tools`).
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.contracts import Limits, Sandbox, ToolCall
from penstock.errors import SandboxError, SandboxUnavailable
from penstock.sandbox import tools
from penstock.sandbox.bubblewrap import BubblewrapSandbox
from penstock.sandbox.bubblewrap import find as find_bubblewrap
from penstock.sandbox.direct import DirectSandbox
from penstock.settings import SandboxBackend, Settings

__all__ = ["Probe", "probe", "select"]


@dataclass(frozen=True)
class Probe:
    """What `penstock doctor` shows of the sandbox."""

    backend: str
    ok: bool
    message: str
    """How it is, or the line that mends it."""
    tools_dir: str
    missing_tools: tuple[str, ...]
    tools_current: bool
    """Whether the scanners' environment was made from the requirements that this Penstock ships."""


def select(settings: Settings) -> Sandbox:
    """Give the backend that the settings ask for; `auto` means bubblewrap, never none.

    Raises:
        SandboxUnavailable: This machine has no such backend; the message says how to mend it.
    """
    backend = settings.sandbox
    if backend is SandboxBackend.NONE:
        return DirectSandbox(tools.tools_dir(settings))
    if backend in (SandboxBackend.DOCKER, SandboxBackend.KUBERNETES):
        raise SandboxUnavailable(
            f"the sandbox backend {backend.value!r} is not available in this version;"
            " set PENSTOCK_SANDBOX=auto"
        )
    return BubblewrapSandbox(find_bubblewrap(), tools.tools_dir(settings))


async def probe(settings: Settings) -> Probe:
    """Try the backend by running a small program in it."""
    folder = tools.tools_dir(settings)
    name, ok, message = settings.sandbox.value, True, "ready"
    try:
        sandbox = select(settings)
        name = sandbox.name
        await sandbox.run(ToolCall(["true"], limits=Limits(timeout_s=20)))
    except SandboxError as error:
        ok, message = False, error.message
    if ok and name == DirectSandbox.name:
        message = "tools run without a sandbox because PENSTOCK_SANDBOX=none; for development only"
    return Probe(name, ok, message, str(folder), tools.missing(folder), tools.is_current(folder))
