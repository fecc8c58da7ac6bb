#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

usage() {
  cat <<'EOF'
usage: launch/tpu_pod.sh run --config=configs/augpro.py:sst2 [--config.key=value ...]
       launch/tpu_pod.sh fetch | stop | delete

As tpu_vm.sh, on a slice of several hosts: each runs the same command with --distributed=auto, and
all write to one STORE. Where any of them ends with 75, all are started again.
EOF
  settings
  echo $'\nTYPE is v6e-16, four hosts. STORE is required.'
}

[[ ! ${1:-} =~ ^(-h|--help)$ ]] || { usage && exit; }
TYPE=${TYPE:-v6e-16} worker=all
configure
need_store
if [[ ${1:-} == run ]]; then
  set -- run --distributed=auto "${@:2}"
fi
one_tpu "$@"
