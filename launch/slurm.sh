#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
usage: launch/slurm.sh --config=configs/augpro.py:sst2 --workdir=DIR [--config.key=value ...]

Submits a run to Slurm, one process per GPU, from the checkout and with its .venv; all nodes must
see both, and DIR. Two minutes before the time limit the run is told to save, and the job is
requeued; so it is when Slurm preempts it or loses a node.

NODES   how many (1)                    GPUS  on each node; 0: one process on its CPUs (1)
TIME    limit of one go (04:00:00)      CPUS  of each process (8)
SBATCH  more for sbatch, e.g. SBATCH='--partition=gpu --account=me'
VENV    virtual environment (.venv; EXTRA=cuda launch/local.sh makes one)
MODULE  kdjax.main or kdjax.reproduce (kdjax.main)
DRY=1   say the command and do nothing
EOF
}

submit() {
  local root each=$GPUS more=()
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  ((GPUS)) && more=(--gpus-per-node="$GPUS") || each=1
  # shellcheck disable=SC2206  # SBATCH is words
  more+=(${SBATCH:-})
  set -- sbatch --job-name=kdjax --nodes="$NODES" --ntasks-per-node="$each" \
    --cpus-per-task="$CPUS" --time="$TIME" --requeue --signal=B:TERM@120 --open-mode=append \
    --output=kdjax-%j.log --chdir="$root" --export=ALL,KDJAX_IN_JOB=1 \
    "${more[@]}" "$root/launch/slurm.sh" "$@"
  if [[ ${DRY:-} ]]; then
    printf '+%s\n' "$(printf ' %q' "$@")"
  else
    "$@"
  fi
}

in_job() {
  # The signal comes to this script alone, before the time limit. It is passed to the processes on
  # all nodes by scancel, which asks no more of srun than to wait.
  local heard=0 before status
  trap 'heard=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
  # SLURM_CPUS_PER_TASK is not read by every srun.
  srun --cpus-per-task="$CPUS" "${VENV:-.venv}/bin/python" -m "${MODULE:-kdjax.main}" \
    --distributed=auto "$@" &
  while true; do
    before=$heard status=0
    wait $! || status=$?
    ((heard > before)) || break # else it was the signal that ended `wait`
  done
  # A run that was told to stop has saved, or had nothing to save yet. One that ended with 75
  # untold was stopped by Slurm (COMPLETING: it requeues what it preempts, and not what a person
  # cancelled) or on its node.
  if ((status && heard)) || { ((status == 75)) && running; }; then
    echo "slurm.sh: ended with $status; requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$status"
}

running() {
  [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]
}

case ${1:-} in
  -h | --help) usage && exit ;;
  '') usage >&2 && exit 2 ;;
esac
export NODES=${NODES:-1} GPUS=${GPUS:-1} TIME=${TIME:-04:00:00} CPUS=${CPUS:-8}
if [[ ${KDJAX_IN_JOB:-} ]]; then
  in_job "$@"
else
  submit "$@"
fi
