"""Settings, built once at the edge and passed down.

Every setting is an environment variable with the prefix `PENSTOCK_`; nested ones join with
two underscores (`PENSTOCK_WORKER__CONCURRENCY`). There is no module-level instance.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock.errors import SettingsError


class SandboxBackend(StrEnum):
    """Where tools run."""

    AUTO = "auto"
    BUBBLEWRAP = "bubblewrap"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"
    NONE = "none"


class PluginSettings(BaseModel):
    """Which agent plugins are loaded."""

    allow: frozenset[str] | None = Field(
        default=None, description="Names of the agents that may be loaded; unset means all."
    )
    deny: frozenset[str] = Field(
        default=frozenset(), description="Names of agents that are never loaded; wins over allow."
    )


class WorkerSettings(BaseModel):
    """The worker."""

    concurrency: int = Field(default=20, ge=1, le=1000, description="Runs in flight at once.")
    poll_seconds: float = Field(
        default=10.0, ge=1.0, description="Seconds between polls for runs that nobody announced."
    )
    lease_seconds: float = Field(
        default=15.0,
        ge=1.0,
        description="Seconds after which another worker takes the runs of one that cannot be heard of.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0.0,
        description="Seconds that nodes get to come to their end when the worker is stopped.",
    )


class PrefectSettings(BaseModel):
    """The Prefect server that Penstock starts or uses."""

    api_url: str | None = Field(
        default=None, description="URL of an external Prefect API; unset means our own on loopback."
    )
    port: int = Field(default=4200, ge=1, le=65535, description="Port of our own Prefect server.")
    pool: str = Field(default="penstock", description="Name of the work pool.")


class GatewaySettings(BaseModel):
    """The HTTP gateway."""

    host: str = Field(default="127.0.0.1", description="Address the gateway listens on.")
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#]+$",
        description="Where people reach the gateway, for links and for the login; unset means host and port.",
    )
    session_hours: float = Field(
        default=12.0, gt=0, le=24 * 30, description="Hours until somebody who has signed in must do so again."
    )


class OidcSettings(BaseModel):
    """Login by an identity provider that speaks OpenID Connect."""

    issuer: str | None = Field(
        default=None, description="URL of the identity provider; unset means that there is none."
    )
    client_id: str = Field(default="penstock", description="Name under which the provider knows Penstock.")
    client_secret: SecretStr | None = Field(default=None, description="Secret that goes with it, if any.")
    scopes: list[str] = Field(
        default_factory=lambda: ["openid", "profile", "email"], description="What is asked for, as JSON."
    )
    name_claim: str = Field(default="preferred_username", description="Claim that holds a person's name.")
    groups_claim: str = Field(default="groups", description="Claim that lists a person's groups.")


class ApprovalSettings(BaseModel):
    """Requests for approval."""

    notify: list[str] = Field(
        default_factory=list,
        description="Names of the notification blocks that hear of every request for approval, as JSON.",
    )


class LimitSettings(BaseModel):
    """Caps that protect the engine."""

    output_bytes: int = Field(
        default=10 * 1024 * 1024, ge=1024, description="Largest output of one node, in bytes of JSON."
    )
    inline_output_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        description="Outputs above this many bytes go to result storage instead of the database row.",
    )


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", env_nested_delimiter="__", extra="ignore")

    home: Path = Field(
        default=Path("~/.penstock"), description="Folder for the embedded database, results and logs."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of an external PostgreSQL, postgresql://user:password@host/database;"
        " unset means the embedded server.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="Port of the gateway.",
        validation_alias=AliasChoices("PENSTOCK_PORT", "PORT"),
    )
    sandbox: SandboxBackend = Field(
        default=SandboxBackend.AUTO, description="Sandbox backend; none is for development only."
    )
    tools: Path | None = Field(
        default=None,
        description="Folder of the environment that holds the scanners;"
        " unset means penstock-tools inside Penstock's own environment.",
    )
    allow: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Allow-lists that workflow inputs name with allow:, as JSON;"
        " an entry may end in * to allow every value with that prefix.",
    )
    people: Path | None = Field(
        default=None,
        description="File with the people, their groups and roles; unset means that whoever can use this"
        " machine may approve.",
    )
    policies: Path | None = Field(
        default=None, description="Folder with policies: who must approve what, and when nothing may change."
    )
    plugins: PluginSettings = Field(default_factory=PluginSettings, description="Agent plugins.")
    worker: WorkerSettings = Field(default_factory=WorkerSettings, description="The worker.")
    prefect: PrefectSettings = Field(default_factory=PrefectSettings, description="The Prefect server.")
    gateway: GatewaySettings = Field(default_factory=GatewaySettings, description="The gateway.")
    oidc: OidcSettings = Field(default_factory=OidcSettings, description="Login by an identity provider.")
    approvals: ApprovalSettings = Field(
        default_factory=ApprovalSettings, description="Requests for approval."
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="Caps.")
    log_level: str = Field(
        default="INFO",
        description="DEBUG, INFO, WARNING or ERROR.",
        validation_alias=AliasChoices("PENSTOCK_LOG_LEVEL", "LOG_LEVEL"),
    )

    @property
    def home_dir(self) -> Path:
        """`home` with `~` expanded, as an absolute path."""
        return self.home.expanduser().absolute()


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: A variable is wrong; the message names each one and what it takes.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"PENSTOCK_{'__'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_input=False)
        ]
        raise SettingsError("\n".join(lines)) from None
