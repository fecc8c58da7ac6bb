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
    --cpus-per-task="$CPUS" --time="$TIME" --requeue --signal=B:USR1@120 --open-mode=append \
    --output=kdjax-%j.log --chdir="$root" --export=ALL,KDJAX_IN_JOB=1 \
    "${more[@]}" "$root/launch/slurm.sh" "$@"
  if [[ ${DRY:-} ]]; then
    printf '+%s\n' "$(printf ' %q' "$@")"
  else
    "$@"
  fi
}

in_job() {
  # USR1 comes before the time limit, to this script alone: scancel passes it to the processes on
  # all nodes. TERM comes when the job is preempted or cancelled, and to them as well: a second
  # would end them before they have saved.
  local heard=0 told=0 before status
  trap 'heard=$((heard + 1)) told=1; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1
  trap 'heard=$((heard + 1))' TERM
  # SLURM_CPUS_PER_TASK is not read by every srun.
  srun --cpus-per-task="$CPUS" "${VENV:-.venv}/bin/python" -m "${MODULE:-kdjax.main}" \
    --distributed=auto "$@" &
  while true; do
    before=$heard status=0
    wait $! || status=$?
    ((heard > before)) || break # else it was a signal that ended `wait`
  done
  # Told to stop, it has saved or had nothing to save yet. What Slurm preempts, it requeues itself,
  # and what a person cancelled is not to come back: both are COMPLETING.
  if ((status == 75 || (status && told))) && running; then
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
