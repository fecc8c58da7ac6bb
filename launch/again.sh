#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
usage: launch/again.sh COMMAND [ARGUMENTS]

Runs the command, and runs it again for as long as it ends with 75: kdjax has saved, and the same
command goes on. Ends with its first other status, and without another run when told to stop
itself (SIGTERM, Ctrl-C), which it passes on once.

PAUSE  seconds between two runs (1)
DRY=1  say the command and do nothing
EOF
}

case ${1:-} in
  -h | --help) usage && exit ;;
  '') usage >&2 && exit 2 ;;
esac
if [[ ${DRY:-} ]]; then
  printf '+%s\n' "$(printf ' %q' "$@")"
  exit
fi

# With a process group of its own, the command hears Ctrl-C from here alone: a second signal would
# end it before it has saved.
set -m
heard=0
child=
trap 'heard=$((heard + 1)); [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT

while true; do
  "$@" &
  child=$!
  while true; do
    before=$heard status=0
    wait "$child" || status=$?
    ((heard > before)) || break # else it was a signal that ended `wait`
  done
  child=
  if ((status != 75 || heard)); then
    exit "$status"
  fi
  echo 'again.sh: it ended with 75; again' >&2
  sleep "${PAUSE:-1}" || true # Ctrl-C ends it too
  if ((heard)); then
    exit "$status"
  fi
done
