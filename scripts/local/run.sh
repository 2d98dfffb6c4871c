#!/usr/bin/env bash
# Set up this checkout, start Penstock, scan this repository once, and stay up until Ctrl-C.
#
#   scripts/local/run.sh          stay up afterwards; code changes restart gateway and worker
#   scripts/local/run.sh --once   end after the scan, with its exit code
#
# Needs Python 3.11 or newer and git. Settings are environment variables: docs/CONFIGURATION.md.
set -euo pipefail

once=""
up_pid=""
run_pid=""

main() {
  case "${1:-}" in
    "") ;;
    --once) once=yes ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return 0 ;;
    *) printf 'unknown option %s; see --help\n' "$1" >&2; return 2 ;;
  esac
  here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
  root="$(cd -- "$here/../.." && pwd -P)"
  # shellcheck source=scripts/local/python.sh
  . "$here/python.sh"
  need_git
  python="$(find_python)"
  "$python" "$here/prepare.py"
  penstock=("$root/.venv/bin/python" -m penstock.cli.main)

  trap 'stop 130' INT
  trap 'stop 143' TERM HUP
  trap 'stop' EXIT
  start_stack
  local code=0
  scan || code=$?
  [ -z "$once" ] || exit "$code"
  printf '\nPenstock stays up; Ctrl-C ends it.\n%s\n' "$addresses"
  wait "$up_pid"
}

need_git() {
  if ! git -C "$root" rev-parse --git-dir >/dev/null 2>&1; then
    printf 'this needs git, and a checkout made with it: %s\n' "$root" >&2
    return 1
  fi
}

# Start everything and come back when it is ready; the rest of its output goes on to the terminal.
start_stack() {
  local line ready="" folder arguments=(up --reload)
  [ -z "$once" ] || arguments=(up)
  folder="$(mktemp -d)"
  mkfifo "$folder/said"
  "${penstock[@]}" "${arguments[@]}" >"$folder/said" &
  up_pid=$!
  exec 3<"$folder/said"
  rm -r "$folder"
  addresses=""
  while IFS= read -r -u 3 line; do
    printf '%s\n' "$line"
    case "$line" in
      "ready in"*) ready=yes ;;
      "  "*) addresses="$addresses$line"$'\n' ;;
      "Ctrl-C"*) break ;;
    esac
  done
  if [ -z "$ready" ]; then
    local code=0
    wait "$up_pid" || code=$?
    up_pid=""
    exit "$((code == 0 ? 1 : code))"
  fi
  cat <&3 &
}

scan() {
  printf '\nscanning %s\n' "$root"
  "${penstock[@]}" run security-scan --input "repository=$root" &
  run_pid=$!
  local code=0
  # A signal ends this wait at once, which a program in the foreground would not.
  wait "$run_pid" || code=$?
  run_pid=""
  return "$code"
}

# End what was started; a second Ctrl-C does not cut this short.
stop() {
  local code="${1:-$?}"
  trap '' INT TERM HUP
  trap - EXIT
  local pid
  for pid in $run_pid $up_pid; do
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  exit "$code"
}

main "$@"; exit
