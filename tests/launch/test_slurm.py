"""slurm.sh: a job that saves and is queued again."""

import signal
import subprocess
import time

import pytest

from tests.launch.commands import LAUNCH

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
