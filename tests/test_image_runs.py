"""Images through every mode: from a command's config to a folder that reads back."""

import csv
import importlib
import json

import jax
import numpy as np
import pytest

import kdjax
from kdjax import compare, dry, env, exports, inference, jobs, net, predict
from kdjax.data import sources
from kdjax.methods import base
from kdjax.models import vision_files
from tests import tiny


def config(method='backward_kd', task='digits', **changes):
  """As shipped, a few steps long."""
  c = importlib.import_module(f'configs.{method}').get_config(task)
  c.teacher.steps = 30
  c.train.update(dict(steps=20, eval_every=10, log_every=5, tensorboard=False))
  if 'round' in c.method:
    c.method.round = 0.1  # a round as it ships is longer than such a run
  c.update_from_flattened_dict(changes)
  return c.lock()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(config, workdir, rows) of one finished run."""
  workdir = tmp_path_factory.mktemp('digits') / 'work'
  c = config()
  return c, workdir, jobs.run(jobs.prepare(c, workdir))


def test_a_run_compares_the_methods_on_both_splits(run):
  _, workdir, rows = run
  assert list(rows) == ['teacher', 'finetune', 'kd', 'backward_kd']
  for row in rows.values():
    assert 0.1 < row['validation']['accuracy'] <= 1 and 0.1 < row['test']['accuracy'] <= 1
  assert rows['kd']['parameters'] == 64 * 16 + 16 + 16 * 10 + 10
  assert '1.2 k' in (workdir / 'results.md').read_text()
  lines = (workdir / 'backward_kd' / 'log.jsonl').read_text().splitlines()
  last = [json.loads(line) for line in lines if 'student/rise' in line][-1]
  assert last['student/rise'] > 1 and 0 < last['student/clamped'] < 1
  card = (workdir / 'kd' / 'model' / 'README.md').read_text()
  assert 'image-classification' in card and 'library_name: kdjax' in card


def test_files_of_rows_are_not_for_a_model_of_images(run, tmp_path):
  _, workdir, _ = run
  models = [str(workdir / name / 'model') for name in ('kd', 'teacher')]
  rows = tmp_path / 'rows.csv'
  rows.write_text('text\ngood\n')
  said = rf'^error: {models[0]} reads images, not text: kdjax.load'
  with pytest.raises(SystemExit, match=said):
    predict.main([models[0], f'--data={rows}', f'--out={tmp_path / "out.csv"}'])
  with pytest.raises(SystemExit, match=said):
    compare.main([*models, f'--data={rows}', f'--out={tmp_path / "out"}'])


def test_nothing_finished_is_done_again(run, monkeypatch):
  c, workdir, rows = run
  monkeypatch.setattr('kdjax.train.fit', lambda *a, **k: pytest.fail('trained again'))
  again = jobs.run(jobs.prepare(c, workdir))
  assert again['kd']['test'] == rows['kd']['test']


def test_a_classifier_takes_bytes_and_floats_with_or_without_channels(run):
  c, workdir, rows = run
  clf = kdjax.load(workdir / 'backward_kd' / 'model', batch_size=64)
  assert clf.labels == tuple('0123456789')
  split = sources.read(env.settle(c)[0].data, env.settle(c)[1]).splits['test']
  out = clf(split.first)
  assert out.shape == (len(split.first), 10)
  np.testing.assert_allclose(out.sum(1), 1, rtol=1e-5)
  right = (out.argmax(1) == split.label).mean()
  assert right == pytest.approx(rows['backward_kd']['test']['accuracy'])
  np.testing.assert_array_equal(clf(split.first[..., 0]), out)
  np.testing.assert_array_equal(clf(split.first.astype(np.float32) / 255), out)
  assert clf(split.first[:0]).shape == (0, 10)
  between = np.clip(split.first / 255 + 1e-3, 0, 1)  # no step of a byte
  assert (np.abs(clf(between) - out).max(1) > 1e-7).any()


def test_what_is_no_image_is_refused_with_what_is(run):
  clf = kdjax.load(run[1] / 'kd' / 'model')
  for wrong, said in (
    (np.zeros((2, 9, 8), np.uint8), r'images are \(9, 8, 1\), the model reads \(8, 8, 1\)'),
    (np.zeros((2, 8, 8, 3), np.uint8), r'\(8, 8, 3\)'),
    (np.full((2, 8, 8), 1.5), 'must be from 0 to 1'),
    (np.full((2, 8, 8), np.nan), 'nan'),
    (np.zeros((8, 8), np.uint8), 'are no images'),
    (['a text'], 'are no images'),
  ):
    with pytest.raises(ValueError, match=said):
      clf(wrong)


def test_eval_predict_and_export_agree_with_the_run(run, tmp_path):
  c, workdir, rows = run
  found = inference.evaluation(c, workdir)
  want = {split: rows['backward_kd'][split] for split in ('validation', 'test')}
  assert found == {k: pytest.approx(v) for k, v in want.items()}
  own = c.copy_and_resolve_references()
  own.eval.data = 'rows.csv'
  with pytest.raises(ValueError, match=r'eval.data=rows.csv is a file of texts, .* reads images'):
    inference.prediction(own, workdir)
  with inference.prediction(c, workdir).open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 359
  names = [line['prediction'] for line in lines]
  plan = jobs.prepare(c, workdir)
  label = plan.data['test'].label
  assert np.mean(np.array(names, int) == label) == pytest.approx(want['test']['accuracy'])
  with c.unlocked():
    c.export.dir = str(tmp_path / 'out')
  target = exports.export(c, workdir)
  a, b = (
    net.split(vision_files.load(d)[0])[1] for d in (target, workdir / 'backward_kd' / 'model')
  )
  assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def test_a_dry_run_draws_the_images_and_writes_nothing(tmp_path, capsys):
  dry.show(jobs.prepare(config(), tmp_path / 'w', str(tmp_path / 'cache')))
  said = capsys.readouterr().out
  assert '8 x 8 x 1, pixels from 0 to 255' in said and '@@' in said
  assert 'student: mlp:16, 1 layers x 16, 1,210 parameters' in said
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('name', tiny.config_names())
def test_every_config_is_ready_for_images_or_says_that_it_is_for_text(tmp_path, name):
  c = config(name, compare='')
  if c.method.name in base.TOKENS:
    with pytest.raises(ValueError, match=f'method {c.method.name} is for text'):
      jobs.prepare(c, tmp_path / 'w')
    assert not list((tmp_path / 'w').iterdir())
  else:
    assert jobs.prepare(c, tmp_path / 'w').env.images


def test_a_residual_network_distils_own_color_images(rng, tmp_path):
  label = rng.integers(0, 2, 80)
  pixels = rng.integers(0, 120, (80, 6, 7, 3), np.uint8)
  pixels[label == 1, :, :, 0] += 130  # red
  np.savez(tmp_path / 'mine.npz', images=pixels, labels=np.array(['grey', 'red'])[label])
  c = config(
    task='images',
    **{
      'data.train': str(tmp_path / 'mine.npz'),
      'teacher.init': 'resnet:8,16',
      'student.init': 'resnet:4',
      'train.batch_size': 16,
      'method.round': 0.2,
      'compare': '',
    },
  )
  rows = jobs.run(jobs.prepare(c, tmp_path / 'work'))
  assert set(rows) == {'teacher', 'backward_kd'}
  clf = kdjax.load(tmp_path / 'work' / 'backward_kd' / 'model')
  assert clf.labels == ('grey', 'red') and clf(pixels[:3]).shape == (3, 2)


def test_a_trained_teacher_is_taken_as_it_is_and_a_wrong_one_refused(run, tmp_path):
  _, workdir, rows = run
  folder = str(workdir / 'teacher' / 'model')
  fixed = {'teacher.init': folder, 'teacher.finetune': False, 'compare': ''}
  out = jobs.run(jobs.prepare(config(**fixed), tmp_path / 'work'))
  assert out['teacher']['test'] == rows['teacher']['test']
  assert not (tmp_path / 'work' / 'teacher').exists()
  for changes, said in (
    ({'teacher.init': 'mlp:4', 'teacher.finetune': False}, "teacher 'mlp:4' is not trained"),
    ({'teacher.init': 'minilm'}, 'config.teacher.init.*mlp:256,256.*nor a folder'),
    ({'student.init': 'teacher'}, 'config.student.init.*mlp:256,256'),
    ({'student.init': str(tmp_path / 'nowhere')}, 'config.student.init'),
    ({'data.train_size': 8}, 'do not fill one batch'),
    ({'data.source': 'hub'}, 'digits, tfds, local, files'),
  ):
    with pytest.raises(ValueError, match=said):
      jobs.prepare(config(**changes), tmp_path / 'other')
  np.savez(
    tmp_path / 'a.npz', images=np.arange(1600).reshape(64, 5, 5) % 256, labels=np.arange(64) % 10
  )
  with pytest.raises(ValueError, match=r'reads \(8, 8, 1\).*the data are \(5, 5, 1\)'):
    changes = fixed | {'data.train': str(tmp_path / 'a.npz')}
    jobs.prepare(config(task='images', **changes), tmp_path / 'other')
  module, found = vision_files.load(folder)
  vision_files.save(tmp_path / 'turned', module, found, labels=list('9876543210'))
  with pytest.raises(ValueError, match='numbers its classes'):
    jobs.prepare(config(**fixed | {'teacher.init': str(tmp_path / 'turned')}), tmp_path / 'other')


def test_npz_files_without_a_task_of_images_are_pointed_to_it(tmp_path):
  c = config('kd', 'own', **{'data.train': 'mine.npz'})
  with pytest.raises(ValueError, match=r'configs/kd.py:images'):
    jobs.prepare(c, tmp_path / 'w')


def test_the_source_follows_from_what_is_named():
  for task, fields, want in (
    ('digits', {}, 'digits'),
    ('digits', {'data.train': 'a.npz'}, 'files'),
    ('mnist', {}, 'tfds'),
    ('cifar10', {'data.dir': 'somewhere'}, 'local'),
    ('images', {'data.train': 'a.npz'}, 'files'),
    ('mnist', {'data.dir': 'somewhere', 'data.source': 'tfds'}, 'tfds'),
  ):
    c, spec = env.settle(config(task=task, **fields))
    assert (c.data.source, spec.name) == (want, task) and spec.images


def test_two_models_of_one_architecture_begin_as_two(tmp_path):
  plan = jobs.prepare(config(**{'teacher.init': 'mlp:16'}), tmp_path / 'w')
  a, b = (net.split(m.module)[1]['out']['kernel'] for m in (plan.teacher, plan.student))
  assert not np.array_equal(a, b)
