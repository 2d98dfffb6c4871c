# shellcheck shell=bash
# Sourced by the other scripts: finds a Python that is new enough.

# Print the command of a usable Python, or explain what is missing and fail.
find_python() {
  local candidate seen=""
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 python3.14 python; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return 0
    fi
    seen="$seen $candidate ($("$candidate" --version 2>&1 | head -n 1))"
  done
  printf 'Penstock needs Python 3.11 or newer; found:%s\n' "${seen:- none}" >&2
  printf 'install one, or name it: PYTHON=/path/to/python %s\n' "$0" >&2
  return 1
}
