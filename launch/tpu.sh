# shellcheck shell=bash
# What tpu_vm.sh, tpu_pod.sh and tpu_queued.sh have in common; they source it.

settings() { # the part of the usage that is the same
  cat <<'EOF'

NAME     of the TPU, and of the run's folder (kdjax)
ZONE     where, e.g. us-east5-b; required
PROJECT  the one of gcloud's configuration
TYPE     accelerator type, see below
VERSION  software of the TPU VM (v2-alpha-tpuv6e; v5e: v2-alpha-tpuv5-lite, v5p: v2-alpha-tpuv5)
STORE    gs://bucket or host:/path (NFS), mounted on the workers: outputs lie there in NAME/
RESULTS  folder here that outputs are fetched into (runs)
MODULE   kdjax.main or kdjax.reproduce (kdjax.main)
SPOT=1   cheaper, and may be taken away
DELETE   1: delete the TPU after a run that ended well
PAUSE    seconds between two looks (30)
DRY=1    say the commands and do nothing
EOF
}

say() { printf '%s\n' "$*" >&2; }

run() { # does a command; with DRY=1 says it
  if [[ ${DRY:-} ]]; then
    printf '+%s\n' "$(printf ' %q' "$@")"
  else
    "$@"
  fi
}

configure() {
  : "${ZONE:?say where: ZONE=us-east5-b (launch/README.md)}"
  NAME=${NAME:-kdjax} STORE=${STORE:-} RESULTS=${RESULTS:-runs} PAUSE=${PAUSE:-30}
  VERSION=${VERSION:-v2-alpha-tpuv6e}
  STORE=${STORE%/}
  [[ ! $STORE =~ ^gs://.*/ ]] || { say "STORE=$STORE: a bucket, without a folder" && exit 2; }
  where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
  workdir=runs/$NAME
  [[ ! $STORE ]] || workdir=store/$NAME
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
}

need_store() { # several hosts, or one that may be taken away, cannot use a disk of their own
  [[ $STORE ]] || { say "say where outputs are kept: STORE=gs://bucket or host:/path" && exit 2; }
}

on() { # a command on the workers
  # shellcheck disable=SC2154  # worker is set by who sources this
  run gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$worker" --command="$1"
}

state_of() { # the state of a tpu-vm or queued-resources, GONE where there is none
  local said
  if [[ ${DRY:-} ]]; then
    echo GONE
  elif said=$(
    gcloud compute tpus "$1" describe "$NAME" "${where[@]}" --format="value($2)" 2>&1
  ); then
    tail -n 1 <<<"$said"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo GONE
  else
    say "$said"
    echo UNKNOWN # gcloud's own trouble says nothing of the TPU
  fi
}

create_vm() {
  [[ $(state_of tpu-vm state) == GONE ]] || return 0
  run gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" --accelerator-type="$TYPE" \
    --version="$VERSION" ${SPOT:+--spot}
}

delete_vm() {
  run gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
}

gone() { # whether there is no TPU to be had by waiting
  case $(state_of tpu-vm state) in
    GONE | PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING) true ;;
    *) false ;;
  esac
}

pack() { # this checkout, once: a run that goes on elsewhere is to go on with the same code
  local commit
  packed=$(mktemp -d)
  trap 'rm -rf "$packed"' EXIT
  commit=$(git -C "$root" stash create) # has what is not committed, of files that git knows
  run git -C "$root" archive --prefix=kdjax/ -o "$packed/kdjax.tgz" "${commit:-HEAD}"
}

set_up() {
  run gcloud compute tpus tpu-vm scp "$packed/kdjax.tgz" "$NAME:" "${where[@]}" \
    --worker="$worker" && on "tar xzf kdjax.tgz && kdjax/launch/on_tpu.sh setup $STORE"
}

attempt() { # one run: its status, 75 if that of any worker is; 255: a worker is out of reach
  local each one worst=0
  on "kdjax/launch/on_tpu.sh start $command" || return 255
  on 'kdjax/launch/on_tpu.sh follow' || return 255
  [[ ! ${DRY:-} ]] || return 0
  each=$(on 'kdjax/launch/on_tpu.sh status') || return 255
  say "statuses: ${each//$'\n'/ }"
  [[ $each =~ ^[0-9]+($'\n'[0-9]+)*$ ]] || return 255
  for one in $each; do
    ((one != 75)) || return 75
    ((!one || (worst && worst != 134))) || worst=$one # 134: jax, of a host that lost another
  done
  return "$worst"
}

until_done() { # runs until it ends with another status than 75; 75: the TPU itself is gone
  local status lost=0 ready=
  command=$(printf '%q ' kdjax/.venv/bin/python -m "${MODULE:-kdjax.main}" "$@")
  if [[ ! ${DRY:-} && $(on 'kdjax/launch/on_tpu.sh status' 2>/dev/null) == *running* ]]; then
    ready=1 # a run is going, and is not to have its code changed
  fi
  while true; do
    status=0
    [[ $ready ]] || set_up || status=255
    ((status)) || { ready=1 && attempt; } || status=$?
    case $status in
      75) lost=0 && say 'stopped, and saved' ;;
      255) lost=$((lost + 1)) && say 'a worker is out of reach, or was not set up' ;;
      *) return "$status" ;;
    esac
    ((lost < 5)) || return 255
    sleep "$PAUSE"
    ! gone || return 75
    say 'again'
  done
}

fetch() {
  run mkdir -p "$RESULTS"
  if [[ $STORE == gs://* ]]; then
    run gcloud storage rsync --recursive "$STORE/$NAME" "$RESULTS/$NAME"
  else
    run gcloud compute tpus tpu-vm scp --recurse "$NAME:$workdir" "$RESULTS" "${where[@]}" \
      --worker=0
  fi
}

finish() { # after a run: results, and the TPU away where that was asked for
  local status=$1
  ((status == 0)) || { say "the run ended with $status; the TPU stays" && return "$status"; }
  fetch
  if [[ ${DELETE:-} == 1 ]]; then
    "$2"
  else
    say "the TPU stays, and costs: $0 delete"
  fi
}

one_tpu() { # the command line of tpu_vm.sh and tpu_pod.sh
  local status=0
  case ${1:-} in
    run)
      pack
      create_vm
      until_done --workdir="$workdir" "${@:2}" || status=$?
      ((status != 75)) || say "the TPU was taken away: $0 delete, and the same command again"
      finish "$status" delete_vm
      ;;
    fetch) fetch ;;
    stop) on 'kdjax/launch/on_tpu.sh stop' ;;
    delete) delete_vm ;;
    *) usage >&2 && return 2 ;;
  esac
}
