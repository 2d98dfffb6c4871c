"""Environment variables that make Prefect fit: for its server and for its clients.

Imports nothing of Prefect, for they must be set before Prefect is imported.
"""

from __future__ import annotations

from penstock.settings import Settings

__all__ = ["UI_BASE", "api_url", "client_environment", "server_environment", "ui_url"]

UI_BASE = "/prefect"
"""Path of the UI on our own Prefect server, and of the same UI on the gateway."""


def api_url(settings: Settings) -> str:
    """Give the URL of the Prefect API."""
    return settings.prefect.api_url or f"http://127.0.0.1:{settings.prefect.port}/api"


def ui_url(settings: Settings) -> str:
    """Give the address of the Prefect UI itself; the gateway has it behind its login as well."""
    server = api_url(settings).removesuffix("/api")
    return server if settings.prefect.api_url else f"{server}{UI_BASE}"


def client_environment(settings: Settings) -> dict[str, str]:
    """Give what a process needs that talks to Prefect: worker, gateway, command line."""
    return {
        "PREFECT_API_URL": api_url(settings),
        "PREFECT_HOME": str(settings.home_dir / "prefect"),
        "PREFECT_UI_URL": ui_url(settings),
        "PREFECT_WORKER_QUERY_SECONDS": f"{settings.worker.poll_seconds:g}",
        "PREFECT_WORKER_PREFETCH_SECONDS": "0",
        # A worker here cancels its own runs; the stock observer would kill infrastructure.
        "PREFECT_WORKER_ENABLE_CANCELLATION": "false",
        "PREFECT_LOGGING_LEVEL": settings.log_level,
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }


def server_environment(settings: Settings, database_url: str) -> dict[str, str]:
    """Give what our own Prefect server needs.

    Args:
        database_url: SQLAlchemy URL with the asyncpg driver.
    """
    return {
        **client_environment(settings),
        "PREFECT_API_DATABASE_CONNECTION_URL": database_url,
        # A database user named like our schema would make Prefect create its tables there.
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH": "public",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(settings.prefect.port),
        "PREFECT_SERVER_UI_API_URL": api_url(settings),
        "PREFECT_SERVER_UI_SERVE_BASE": UI_BASE,
        # The UI's files hold the base. By default all servers of one installation share them, and the
        # last one to start with another base would take ours away.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(settings.home_dir / "prefect" / "ui"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # One transaction for many task-run events; one each is what the default costs.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "1000",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    }
