from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from penstock.sandbox import tools
from penstock.settings import load_settings
from support.checkouts import Repository, demand


@pytest.fixture(scope="session")
def tools_env() -> Path:
    """Give the folder of the scanners' environment."""
    folder = tools.tools_dir(load_settings())
    demand(shutil.which("bwrap"), "bubblewrap")
    demand(not tools.missing(folder), "the scanners' environment (penstock tools install)")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    demand(shutil.which("git"), "git")
    return Repository(tmp_path / "a repository, żółw")
