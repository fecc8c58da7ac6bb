"""The scripts of launch/, with commands of the same names that note how they were called."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parent.parent / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))
RUN = [path.name for path in SCRIPTS if path.name != 'tpu.sh']  # which the tpu_*.sh source

# Answers to a call by the first pattern that it matches: 'status output', one line for each call,
# the last for all that follow. Without a pattern, it succeeds in silence.
FAKE = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$CALLS"
for pattern in "$0".*.pattern; do
  [[ -e $pattern && "$*" == $(<"$pattern") ]] || continue
  answers=${pattern%.pattern}.answers
  mapfile -t lines <"$answers"
  ((${#lines[@]} == 1)) || printf '%s\\n' "${lines[@]:1}" >"$answers"
  read -r status output <<<"${lines[0]}"
  [[ ! $output ]] || printf '%b\\n' "$output"
  exit "$status"
done
"""


class Commands:
  """A folder of commands at the head of PATH, and what they were called with."""

  def __init__(self, folder: pathlib.Path):
    self.bin = folder / 'bin'
    self.bin.mkdir()
    self._calls = folder / 'calls'
    kept = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM_', 'TPU_'))}
    path = f'{self.bin}:{os.environ["PATH"]}'
    self.environment = kept | dict(PATH=path, CALLS=str(self._calls), PAUSE='0')

  def add(self, name: str, **answers: list[str]) -> None:
    """A command; answers by a word of the call."""
    self.script(name, FAKE)
    for word, lines in answers.items():
      (self.bin / f'{name}.{word}.pattern').write_text(f'*{word.replace("_", "*")}*')
      (self.bin / f'{name}.{word}.answers').write_text('\n'.join(lines) + '\n')

  def script(self, name: str, text: str) -> None:
    """A command that does what is said."""
    (self.bin / name).write_text(text)
    (self.bin / name).chmod(0o755)

  def run(self, name: str, *arguments: str, **settings: str):
    """A script of launch/, to its end."""
    return subprocess.run(
      ['bash', LAUNCH / name, *arguments],
      env=self.environment | settings, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

  def calls(self) -> list[str]:
    """All calls of all commands, in order."""
    return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def commands(tmp_path):
  """Instead of those that this machine may have."""
  found = Commands(tmp_path)
  for name in ('gcloud', 'sbatch', 'srun', 'scancel', 'scontrol', 'squeue', 'curl', 'sudo'):
    found.add(name)
  return found


def _short(calls: list[str]) -> list[str]:
  """gcloud's calls as verb and object, ssh as what on_tpu.sh is to do."""
  out = []
  for call in calls:
    remote = re.search(r'on_tpu\.sh (\w+)', call)
    local = re.search(r'(queued-resources|tpu-vm|storage) (\w+)', call)
    out.append(remote[1] if remote else f'{local[1]} {local[2]}')
  return out


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
  made, installed, *runs = commands.calls()
  assert made == f'python3 -m venv {venv}'
  assert re.fullmatch(r'pip install -q -c \S+/constraints.txt -e \S+\[test\]', installed)
  assert runs == ['python -m kdjax.main --config=configs/kd.py --workdir=a b'] * 2

  commands.run('local.sh', 'test', '-k', 'kd', **settings | dict(PROGRAM='true'))
  assert commands.calls()[4:] == ['python -m pytest -n 2 --dist worksteal -k kd']


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


def test_several_hosts_need_a_store_and_all_a_zone(commands):
  for name in ('tpu_pod.sh', 'tpu_queued.sh'):
    done = commands.run(name, 'run', ZONE='z')
    assert done.returncode == 2 and 'STORE=gs://bucket' in done.stderr
  done = commands.run('tpu_vm.sh', 'run')
  assert done.returncode != 0 and 'ZONE=us-east5-b' in done.stderr
  done = commands.run('tpu_vm.sh', 'run', ZONE='z', STORE='gs://bucket/folder')
  assert done.returncode == 2 and 'without a folder' in done.stderr


AGAIN = ['start', 'follow', 'status', 'tpu-vm describe']
ONE = ['start', 'follow', 'status']


def test_a_vm_is_created_set_up_once_and_its_run_started_again_on_75(commands):
  commands.add('gcloud', describe=['1 NOT_FOUND', '0 READY'], status=['0 none', '0 75', '0 0'])
  done = commands.run('tpu_vm.sh', 'run', '--config=kd.py', ZONE='z')
  assert done.returncode == 0, done.stderr
  assert _short(commands.calls()) == [
    'tpu-vm describe', 'tpu-vm create', 'status', 'tpu-vm scp', 'setup', *AGAIN, *ONE, 'tpu-vm scp',
  ]  # fmt: skip
  assert 'kdjax:runs/kdjax runs' in commands.calls()[-1] and 'tpu_vm.sh delete' in done.stderr


def test_a_run_that_goes_on_is_watched_again_with_the_code_it_has(commands):
  commands.add('gcloud', describe=['0 READY'], status=['0 running', '0 0'])
  done = commands.run('tpu_vm.sh', 'run', '--config=kd.py', ZONE='z', DELETE='1')
  assert done.returncode == 0, done.stderr
  want = ['tpu-vm describe', 'status', *ONE, 'tpu-vm scp', 'tpu-vm delete']
  assert _short(commands.calls()) == want


@pytest.mark.parametrize(
  'statuses, last', [(r'134\n75\n0', None), (r'134\n3\n134', 3), (r'0\n134', 134), (r'0\n0', 0)]
)
def test_of_several_hosts_the_reason_counts_and_not_who_lost_the_others(commands, statuses, last):
  commands.add('gcloud', describe=['0 READY'], status=['0 none', f'0 {statuses}', r'0 0\n0'])
  done = commands.run('tpu_pod.sh', 'run', '--config=kd.py', ZONE='z', STORE='host:/disk')
  calls = _short(commands.calls())
  assert done.returncode == (last or 0), done.stderr
  assert calls.count('start') == (2 if last is None else 1)
  assert ('tpu-vm scp' in calls[4:]) == (not last)  # outputs of what ended well


def test_a_lost_connection_is_made_again_and_starts_nothing_new(commands):
  commands.add(
    'gcloud', tpu_vm_describe=['0 READY', '1 no network', '0 READY'],
    follow=['255', '0'], status=['0 none', '0 0'],
  )  # fmt: skip
  done = commands.run('tpu_vm.sh', 'run', '--config=kd.py', ZONE='z')
  assert done.returncode == 0, done.stderr
  assert _short(commands.calls()).count('setup') == 1


def test_what_is_out_of_reach_for_long_is_an_error_and_not_deleted(commands):
  commands.add('gcloud', describe=['0 ACTIVE'], tpu_vm_describe=['0 READY'], setup=['1'])
  done = commands.run('tpu_queued.sh', 'run', '--config=kd.py', ZONE='z', STORE='gs://b')
  assert done.returncode == 255
  calls = _short(commands.calls())
  assert calls.count('setup') == 5 and 'queued-resources delete' not in calls


def test_a_preempted_tpu_is_deleted_asked_for_again_and_the_run_goes_on(commands):
  commands.add(
    'gcloud',
    resources_describe=[
      '1 ERROR: NOT_FOUND: no such', '0 WAITING_FOR_RESOURCES', '0 ACTIVE',
      '1 ERROR: NOT_FOUND: no such', '0 PROVISIONING', '0 ACTIVE',
    ],
    vm_describe=['0 PREEMPTED', '0 READY'],
    follow=['255', '0'],
    status=['0 none', '0 none', r'0 134\n75', r'0 0\n0'],
  )  # fmt: skip
  done = commands.run('tpu_queued.sh', 'run', '--config=kd.py', ZONE='z', STORE='gs://b')
  assert done.returncode == 0, done.stderr
  ask = ['queued-resources describe', 'queued-resources create'] + ['queued-resources describe'] * 2
  put = ['status', 'tpu-vm scp', 'setup']
  assert _short(commands.calls()) == [
    *ask, *put, 'start', 'follow', 'tpu-vm describe', 'queued-resources delete',
    *ask, *put, *AGAIN, *ONE, 'storage rsync', 'queued-resources delete',
  ]  # fmt: skip


def test_a_run_that_fails_leaves_the_tpu_and_is_not_tried_again(commands):
  commands.add(
    'gcloud', resources_describe=['0 ACTIVE'], vm_describe=['0 READY'], status=['0 none', '0 1']
  )
  done = commands.run('tpu_queued.sh', 'run', '--config=kd.py', ZONE='z', STORE='gs://b')
  assert done.returncode == 1 and 'ended with 1' in done.stderr
  assert _short(commands.calls())[-1] == 'tpu-vm describe'


def test_a_request_that_always_fails_ends(commands):
  commands.add('gcloud', describe=['0 FAILED'])
  done = commands.run('tpu_queued.sh', 'run', '--config=kd.py', ZONE='z', STORE='gs://b')
  assert done.returncode == 1
  assert _short(commands.calls()) == ['queued-resources describe', 'queued-resources delete'] * 5


def _on_tpu(commands, home, *arguments):
  done = commands.run('on_tpu.sh', *arguments, HOME=str(home))
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


needs_flock = pytest.mark.skipif(not shutil.which('flock'), reason='flock is of Linux')


@needs_flock
def test_on_a_tpu_a_command_outlives_who_started_it_and_leaves_its_status(commands, tmp_path):
  here = (commands, tmp_path)
  assert _on_tpu(*here, 'status') == 'none'
  _on_tpu(*here, 'start', 'bash', '-c', 'sleep 0.5; echo "$0"; exit 75', 'a  b')
  assert _on_tpu(*here, 'status') == 'running'
  _on_tpu(*here, 'start', 'echo', 'a second')  # is not
  assert _on_tpu(*here, 'follow') == 'a  b'
  assert _on_tpu(*here, 'status') == '75'
  _on_tpu(*here, 'start', 'false')
  assert 'a second' not in _on_tpu(*here, 'follow')
  assert _on_tpu(*here, 'status') == '1'


@needs_flock
def test_on_a_tpu_the_last_lines_of_a_command_are_shown_even_of_one_that_has_ended(
  commands, tmp_path
):
  for word in 'abc':  # what has ended before anyone follows
    _on_tpu(commands, tmp_path, 'start', 'echo', word)
    assert _on_tpu(commands, tmp_path, 'follow').split()[-1] == word
  _on_tpu(commands, tmp_path, 'start', 'bash', '-c', 'sleep 0.2; seq 20000')
  assert _on_tpu(commands, tmp_path, 'follow').split()[-1] == '20000'


@needs_flock
def test_on_a_tpu_a_run_is_stopped_and_one_that_was_cut_off_is_started_again(commands, tmp_path):
  here = (commands, tmp_path)
  _on_tpu(
    *here, 'start', 'bash', '-c', 'trap "exit 75" TERM; echo on; while :; do sleep 0.05; done'
  )
  while 'on' not in (tmp_path / 'run/log').read_text():
    time.sleep(0.02)
  _on_tpu(*here, 'stop')
  _on_tpu(*here, 'follow')
  assert (tmp_path / 'run/status').read_text() == '75\n'
  assert _on_tpu(*here, 'status') == '143'  # a person did it
  _on_tpu(*here, 'start', 'sleep', '60')
  leader = int((tmp_path / 'run/pid').read_text())
  while os.getpgid(leader) != leader:
    time.sleep(0.02)
  os.killpg(leader, signal.SIGKILL)
  _on_tpu(*here, 'follow')
  assert not (tmp_path / 'run/status').exists()
  assert _on_tpu(*here, 'status') == '75'


JOB = dict(KDJAX_IN_JOB='1', SLURM_JOB_ID='7')


@pytest.mark.parametrize(
  'status, state, requeued',
  [(0, 'RUNNING', False), (1, 'RUNNING', False), (75, 'RUNNING', True), (75, 'COMPLETING', False)],
)
def test_slurm_requeues_what_was_stopped_and_nobody_cancelled(commands, status, state, requeued):
  commands.add('srun', main=[str(status)])
  commands.add('squeue', jobs=[f'0 {state}'])
  done = commands.run('slurm.sh', '--config=kd.py', '--workdir=w', **JOB)
  assert done.returncode == status, done.stderr
  calls = commands.calls()
  assert calls[0] == (
    'srun --cpus-per-task=8 .venv/bin/python -m kdjax.main --distributed=auto --config=kd.py '
    '--workdir=w'
  )
  assert ('scontrol requeue 7' in calls) == requeued


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_passes_on_what_it_hears_alone_and_waits_for_the_save(commands, tmp_path, number):
  told = tmp_path / 'told'
  commands.script(
    'srun', f'#!/usr/bin/env bash\necho up\nuntil [[ -e {told} ]]; do sleep 0.02; done\nexit 75'
  )
  commands.script('scancel', f'#!/usr/bin/env bash\necho "scancel $*" >>"$CALLS"; touch {told}')
  state = 'RUNNING' if number == signal.SIGUSR1 else 'COMPLETING'
  commands.add('squeue', jobs=[f'0 {state}'])
  process = subprocess.Popen(
    ['bash', LAUNCH / 'slurm.sh', '--config=kd.py'],
    env=commands.environment | JOB, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == 'up\n'
  process.send_signal(number)
  if number == signal.SIGTERM:  # Slurm tells the processes itself
    time.sleep(0.3)
    assert process.poll() is None and not commands.calls()
    told.touch()
  assert process.wait(20) == 75
  passed_on = [] if number == signal.SIGTERM else ['scancel --signal=TERM 7']
  calls = [call for call in commands.calls() if not call.startswith('squeue')]
  assert calls == passed_on + ['scontrol requeue 7'] * len(passed_on)


def _job_set():
  return yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())


def test_the_jobset_starts_again_after_75_or_a_disruption_and_fails_otherwise():
  spec = _job_set()['spec']
  (job,) = (r['template']['spec'] for r in spec['replicatedJobs'])
  pod = job['template']['spec']
  (container,) = pod['containers']
  assert '--distributed=auto' in container['args']
  assert pod['terminationGracePeriodSeconds'] >= 60 and pod['restartPolicy'] == 'Never'
  assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
  disrupted, error = job['podFailurePolicy']['rules']  # the first that matches
  assert disrupted['action'] == 'Count'
  assert disrupted['onPodConditions'] == [dict(type='DisruptionTarget', status='True')]
  assert error['action'] == 'FailJob' and error['onExitCodes']['operator'] == 'NotIn'
  assert 75 in error['onExitCodes']['values']
  assert error['onExitCodes']['containerName'] == container['name']
  (rule,) = spec['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet' and rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert spec['failurePolicy']['maxRestarts'] >= 100
  mounts = {m['name'] for m in container['volumeMounts']}
  assert mounts == {v['name'] for v in pod['volumes']}


def test_the_jobset_fits_the_schema_of_kubernetes():
  validator = pytest.importorskip('kubernetes_validate')
  (replicated,) = _job_set()['spec']['replicatedJobs']
  job = dict(
    apiVersion='batch/v1', kind='Job', metadata=dict(name='kdjax'), **replicated['template']
  )
  validator.validate(job, validator.latest_version(), strict=True)


def test_the_page_names_what_there_is():
  text = (LAUNCH / 'README.md').read_text()
  named = set(re.findall(r'`(?:launch/)?(\w+\.(?:sh|yaml)|Dockerfile)`', text))
  assert named == {path.name for path in LAUNCH.iterdir()} - {'README.md', 'tpu.sh'}
  for name in re.findall(r'^COPY (.+) \S+$', (LAUNCH / 'Dockerfile').read_text(), re.M):
    assert all((LAUNCH.parent / part).exists() for part in name.split())
