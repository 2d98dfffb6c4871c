#!/usr/bin/env bash
# Set up this checkout and run its checks and tests.
#
#   scripts/local/run-tests.sh                 what must pass before a change lands
#   scripts/local/run-tests.sh --full          and the slow tests
#   scripts/local/run-tests.sh lint types      only these steps; --list names them
set -euo pipefail

main() {
  case "${1:-}" in
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 0 ;;
  esac
  local here root python
  here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
  root="$(cd -- "$here/../.." && pwd -P)"
  # shellcheck source=scripts/local/python.sh
  . "$here/python.sh"
  python="$(find_python)"
  "$python" "$here/prepare.py" --dev
  exec "$root/.venv/bin/python" "$root/scripts/tooling/check.py" "$@"
}

main "$@"; exit
