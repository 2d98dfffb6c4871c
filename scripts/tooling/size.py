"""Check that files and functions stay small enough to read in one go.

Complexity and the number of arguments are ruff's to check; ruff does not count lines.
A function or file that is truly clearer when longer says so: `# size: <reason>` on its first line.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 500
FUNCTION_LINES = 50
_EXCUSE = "# size: "


def main() -> int:
    """Check every Python file that git knows or would add."""
    found = [
        line for path in python_files(ROOT) for line in problems(path.read_text(), path.relative_to(ROOT))
    ]
    print("\n".join(found) if found else "every file and function is small enough")
    return 1 if found else 0


def python_files(root: Path) -> list[Path]:
    """List the Python files of a checkout."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "*.py"]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    paths = {root / name for name in done.stdout.split("\0") if name}
    return sorted(path for path in paths if path.is_file())


def problems(source: str, path: Path) -> Iterator[str]:
    """Name what is too long in one file."""
    lines = source.splitlines()
    if len(lines) > FILE_LINES and _EXCUSE not in lines[0]:
        yield f"{path}:1: file has {len(lines)} lines, at most {FILE_LINES}"
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES and _EXCUSE not in lines[node.lineno - 1]:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


if __name__ == "__main__":
    sys.exit(main())
