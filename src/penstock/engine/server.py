"""Our own Prefect server, as a process on loopback: `python -m penstock.engine.server`."""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI
from prefect.server.api.server import create_app

from penstock.lifeline import die_with_parent, report_ready

__all__ = ["main"]


class _Server(uvicorn.Server):
    """Says that it is ready once it accepts connections."""

    async def startup(self, *args: object, **options: object) -> None:
        await super().startup(*args, **options)  # pyright: ignore[reportArgumentType]
        report_ready()


def main() -> None:
    """Serve Prefect's API and UI until SIGTERM."""
    die_with_parent()
    app: FastAPI = create_app()
    config = uvicorn.Config(
        app,
        host=os.environ["PREFECT_SERVER_API_HOST"],
        port=int(os.environ["PREFECT_SERVER_API_PORT"]),
        log_level="warning",
        timeout_keep_alive=65,
        timeout_graceful_shutdown=5,
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
