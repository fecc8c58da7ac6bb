"""tpu_vm.sh, tpu_pod.sh and tpu_queued.sh: what they ask gcloud for, in which order."""

import re

import pytest


def _short(calls: list[str]) -> list[str]:
  """gcloud's calls as verb and object, ssh as what on_tpu.sh is to do."""
  out = []
  for call in calls:
    remote = re.search(r'on_tpu\.sh (\w+)', call)
    local = re.search(r'(queued-resources|tpu-vm|storage) (\w+)', call)
    out.append(remote[1] if remote else f'{local[1]} {local[2]}')
  return out


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
