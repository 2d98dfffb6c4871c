"""What the patcher takes and gives."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from penstock.contracts import Slot, sensitive
from penstock_agents.patcher.parsing import parse

_EXAMPLE = "--- a/setup.cfg\n+++ b/setup.cfg\n@@ -1 +1 @@\n-requests==2.19.0\n+requests==2.32.5\n"


class PatcherInput(BaseModel):
    """What to patch, and where."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"repository_path": "/srv/repositories/shop", "patch_content": _EXAMPLE},
                {
                    "repository_path": "/srv/repositories/shop.git",
                    "patch_content": _EXAMPLE,
                    "target_branch": "release/2.x",
                    "create_backup": False,
                },
            ]
        },
    )

    repository_path: str = sensitive(
        Slot.PATH,
        description="Absolute path of a git checkout or a bare repository on the worker.",
        min_length=1,
        max_length=4096,
    )
    patch_content: str = Field(
        min_length=1, max_length=1_000_000, description="Unified diff, as git diff or diff -u writes it."
    )
    target_branch: str = Field(
        default="main", min_length=1, max_length=250, description="Branch that gets the commit."
    )
    create_backup: bool = Field(
        default=True, description="Whether a backup branch keeps the commit before the patch."
    )

    @field_validator("patch_content")
    @classmethod
    def _is_a_diff(cls, value: str) -> str:
        parse(value)
        return value


class PatchConflict(BaseModel):
    """Why the patch could not be applied to one file."""

    file: str = Field(description="Path in the repository; empty when it is about the branch.")
    reason: str = Field(description="What stands in the way, without any content of the file.")


class PatcherOutput(BaseModel):
    """What was changed, and what undoing it needs."""

    applied: bool = Field(description="Whether the branch has the patch now; false in a dry run.")
    files_modified: list[str] = Field(description="Paths that were created, changed or deleted.")
    backup_path: str = Field(description="Ref of the backup branch; empty when none was made.")
    conflicts: list[PatchConflict] = Field(
        default_factory=list[PatchConflict], description="Always empty here: a conflict fails the node."
    )
    commit: str = Field(description="Commit that holds the patch; empty in a dry run.")
    previous_commit: str = Field(description="Commit that the branch pointed at before.")
