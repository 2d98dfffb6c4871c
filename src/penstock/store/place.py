"""Where the embedded server keeps its files, and as whom it runs.

PostgreSQL refuses to run as root. For an ordinary user everything lies in `<home>/postgres`
and belongs to that user. Root hands the server to an unprivileged account; as that account
cannot pass a folder such as `/root`, the files of such a home lie under `/var/lib/penstock`
and `<home>/postgres` is a link to them.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import StoreError

SHARED_ROOT = Path("/var/lib/penstock")
"""Where root keeps what the server's account could not reach inside the home."""

_SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket that both Linux and macOS take."""

_SOCKET_FILE = ".s.PGSQL.5432"
_FIRST_PRIVATE_GID = 61_843
_LOCK_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Account:
    """The user and group of the server's processes; None means those of the caller."""

    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Further groups of the processes: none, instead of those of root."""
        return None if self.uid is None else []


@dataclass(frozen=True)
class Place:
    """The folders of one embedded server."""

    area: Path
    sockets: Path
    account: Account

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.area / "data"

    @property
    def log(self) -> Path:
        """The folder of the server's logs."""
        return self.area / "log"

    def make_folder(self, path: Path) -> Path:
        """Make a folder that only the server's account (and root) can enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        self._give(path)
        return path

    def _give(self, path: Path) -> None:
        if self.account.uid is not None and self.account.gid is not None:
            os.chown(path, self.account.uid, self.account.gid)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the lock that lets one process at a time start or stop the server.

        Raises:
            StoreError: Another process held it for three minutes.
        """
        with _locked(self.area):
            yield


def place_for(home: Path) -> Place:
    """Find or make the folders of the embedded server that belongs to `home`.

    Raises:
        StoreError: The folders belong to another user, or there is no account for the server.
    """
    is_root = os.geteuid() == 0
    try:
        home.mkdir(mode=0o711 if is_root else 0o700, parents=True, exist_ok=True)
        with _locked(home):
            return _root_place(home) if is_root else _user_place(home)
    except OSError as error:
        raise StoreError(
            f"the embedded database cannot use {str(home)!r}: {error.strerror};"
            " set PENSTOCK_HOME to a folder of your own"
        ) from error


def reachable_by_others(path: Path) -> bool:
    """Tell whether any account may pass through `path` and every folder above it."""
    resolved = path.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (resolved, *resolved.parents))


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"another process has been starting or stopping the database in {str(folder)!r}"
                    f" for {_LOCK_TIMEOUT_S:.0f} s; end that process and try again"
                ) from None
            time.sleep(0.02)
        else:
            return


def _user_place(home: Path) -> Place:
    area = (home / "postgres").resolve()
    area.mkdir(mode=0o700, exist_ok=True)
    if area.stat().st_uid != os.geteuid():
        raise StoreError(
            f"the embedded database in {str(area)!r} belongs to another user;"
            " set PENSTOCK_HOME to a folder of your own"
        )
    return _with_folders(area, Account())


def _root_place(home: Path) -> Place:
    link = home / "postgres"
    if not link.exists():
        _make_root_area(home.resolve(), link)
    area = link.resolve()
    account = _account_of(area)
    if account.uid == _private_uid() and not reachable_by_others(area.parent):
        raise StoreError(
            f"the account of the embedded database cannot reach {str(area)!r};"
            f" make {str(area.parent)!r} passable again (chmod o+x) or move the database"
        )
    return _with_folders(area, account)


def _make_root_area(home: Path, link: Path) -> None:
    if reachable_by_others(home):
        _mkdir_private(link)
        return
    SHARED_ROOT.mkdir(mode=0o711, parents=True, exist_ok=True)
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    area = SHARED_ROOT / f"postgres-{digest}"
    _mkdir_private(area)
    link.unlink(missing_ok=True)
    link.symlink_to(area)


def _mkdir_private(area: Path) -> None:
    # The account may be shared with other services (nobody): a group that nobody is in keeps them out.
    area.mkdir(mode=0o710, exist_ok=True)
    if area.stat().st_gid == 0:
        os.chown(area, 0, _unused_gid())
        area.chmod(0o710)


def _account_of(area: Path) -> Account:
    data = area / "data"
    owner = (data if data.exists() else area).stat()
    if owner.st_uid == 0:
        return Account(_private_uid(), owner.st_gid)
    return Account(owner.st_uid, owner.st_gid)


def _private_uid() -> int:
    for name in ("penstock", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise StoreError(
        "PostgreSQL does not run as root and there is no account to run it as;"
        " make one (useradd --system penstock) or start Penstock as an ordinary user"
    )


def _unused_gid() -> int:
    gid = _FIRST_PRIVATE_GID
    taken = {group.gr_gid for group in grp.getgrall()}
    while gid in taken:
        gid += 1
    return gid


def _with_folders(area: Path, account: Account) -> Place:
    place = Place(area, _socket_folder(area), account)
    place.make_folder(place.log)
    if place.sockets.parent != area and account.uid is not None:
        _check_owner(place.sockets, account.uid)
    place.make_folder(place.sockets)
    _check_owner(place.sockets, os.geteuid() if account.uid is None else account.uid)
    return place


def _socket_folder(area: Path) -> Path:
    """Choose a folder whose socket has a short enough path; always the same for one area."""
    folder = area / "run"
    if len(os.fsencode(folder / _SOCKET_FILE)) <= _SOCKET_PATH_BYTES:
        return folder
    digest = hashlib.sha256(os.fsencode(area)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"penstock-{digest}"


def _check_owner(folder: Path, uid: int) -> None:
    """Refuse a folder that somebody else made first in a place where everybody may write."""
    if not folder.is_symlink() and (not folder.exists() or folder.stat().st_uid == uid):
        return
    raise StoreError(f"the socket folder {str(folder)!r} belongs to another user; remove it")
