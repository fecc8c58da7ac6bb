#!/usr/bin/env bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

usage() {
  cat <<'EOF'
usage: launch/tpu_vm.sh run --config=configs/augpro.py:sst2 [--config.key=value ...]
       launch/tpu_vm.sh fetch | stop | delete

run     creates a TPU VM of one host unless it is there, copies this checkout to it, installs it,
        runs until done, again for as long as it ends with 75, and fetches the outputs. Ctrl-C ends
        the watching, not the run; the same command watches again.
fetch   outputs so far       stop  the run saves and ends       delete  the TPU and its disk
EOF
  settings
  echo $'\nTYPE is v6e-1. Without STORE, outputs lie on its disk until they are fetched.'
}

[[ ! ${1:-} =~ ^(-h|--help)$ ]] || { usage && exit; }
TYPE=${TYPE:-v6e-1} worker=0
configure
one_tpu "$@"
