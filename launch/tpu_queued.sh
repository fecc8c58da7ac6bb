#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

usage() {
  cat <<'EOF'
usage: launch/tpu_queued.sh run --config=configs/augpro.py:sst2 [--config.key=value ...]
       launch/tpu_queued.sh fetch | stop | delete

run     asks for a TPU of one host or several as a queued resource, waits for it, copies this
        checkout to it and runs until done. When the TPU is preempted it is deleted, asked for
        again, and the run goes on from its last checkpoint in STORE. Start it where it can go on
        for days (tmux); stopped, the same command takes up where it was.
fetch   outputs so far       stop  the run saves and ends       delete  the TPU and the request
EOF
  settings
  echo $'\nTYPE is v6e-16. STORE is required. SPOT is 1 and DELETE is 1 here; empty says no.'
}

queued() {
  run gcloud compute tpus queued-resources "$1" "$NAME" "${where[@]}" "${@:2}"
}

create_queued() {
  queued create --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" \
    ${SPOT:+--spot}
}

delete_queued() {
  queued delete --force --quiet
}

wait_active() {
  local failed=0 state
  while true; do
    state=$(state_of queued-resources state.state)
    say "$NAME: $state"
    case $state in
      ACTIVE) return ;;
      GONE) create_queued || return ;;
      SUSPENDED) delete_queued || return ;;
      FAILED) # now and then by chance; time after time by a wrong TYPE, ZONE or quota
        failed=$((failed + 1))
        delete_queued && ((failed < 5)) || return 1
        ;;
    esac
    [[ ! ${DRY:-} ]] || return 0
    sleep "$PAUSE"
  done
}

until_done_anywhere() {
  local status
  while true; do
    wait_active || return
    status=0
    until_done "$@" || status=$?
    if ((status == 0)) || { ((status != 75)) && ! gone; }; then
      return "$status"
    fi
    say 'preempted'
    delete_queued || return
  done
}

[[ ! ${1:-} =~ ^(-h|--help)$ ]] || { usage && exit; }
TYPE=${TYPE:-v6e-16} SPOT=${SPOT-1} DELETE=${DELETE-1} worker=all
configure
need_store
case ${1:-} in
  run)
    status=0
    pack
    until_done_anywhere --workdir="$workdir" --distributed=auto "${@:2}" || status=$?
    finish "$status" delete_queued
    ;;
  delete) delete_queued ;;
  *) one_tpu "$@" ;;
esac
