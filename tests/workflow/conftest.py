from pathlib import Path

import pytest
from pydantic import JsonValue

from penstock.workflow.source import read_source

LIBRARY = Path(__file__).parents[2] / "flows" / "library"


@pytest.fixture
def library_text() -> str:
    return (LIBRARY / "security-scan.yaml").read_text(encoding="utf-8")


@pytest.fixture
def library(library_text: str) -> dict[str, JsonValue]:
    data = read_source(library_text, file="security-scan.yaml").data
    assert isinstance(data, dict)
    return data
