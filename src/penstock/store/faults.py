"""The one place that turns the drivers' errors into ours."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import exc

from penstock.errors import DatabaseUnavailable, PenstockError, StoreError, TransactionUndone
from penstock.store.driver import DRIVER_ERRORS, INTERFACE_ERROR, INTERNAL_ERROR

_GONE = ("08", "53300", "57P01", "57P02", "57P03", "57P05")
"""SQLSTATEs (or their classes) of a server that is away, starting, stopping or full."""

_COLLIDED = ("40001", "40P01")
"""SQLSTATEs of transactions that the server undid because of another one."""


@contextmanager
def translated(where: str) -> Generator[None]:
    """Turn what the drivers raise inside the block into `StoreError` or `DatabaseUnavailable`.

    Args:
        where: The database's URL without secrets, for the message.
    """
    try:
        yield
    except (exc.SQLAlchemyError, *DRIVER_ERRORS, OSError) as error:
        # OSError holds refused connections, TLS failures, unknown hosts and time-outs.
        raise _translate(error, where) from error


def _translate(error: Exception, where: str) -> PenstockError:
    cause = _driver_error(error)
    if isinstance(cause, PenstockError):
        return cause
    state = str(getattr(cause, "sqlstate", None) or "")
    if _is_gone(error, cause, state):
        return DatabaseUnavailable(
            f"the database {where} cannot be reached: {_sentence(cause)}", details={"sqlstate": state}
        )
    if state in _COLLIDED:
        return TransactionUndone(f"the database undid a transaction: {_sentence(cause)}")
    return StoreError(f"the database refused: {_sentence(cause)}", details={"sqlstate": state})


def _driver_error(error: Exception) -> BaseException:
    if isinstance(error, exc.StatementError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _is_gone(error: Exception, cause: BaseException, state: str) -> bool:
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, exc.TimeoutError) or isinstance(cause, (OSError, INTERNAL_ERROR)):
        return True
    return state.startswith(_GONE) or (isinstance(cause, INTERFACE_ERROR) and "connection" in str(cause))


def _sentence(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
