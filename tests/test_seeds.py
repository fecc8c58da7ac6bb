"""Runs of many seeds, from files on disk: each seed's is its single run, and nothing is lost."""

import json
import shutil

import jax
import numpy as np
import pytest

from kdjax import checkpoint, dry, exports, guard, inference, jobs, net, runs, seeds
from kdjax.models import hf
from tests import tiny, toy

SEEDS = (5, 6, 7)
# Three devices: of three seeds each has one. 40 rows of validation are no batches of 18.
CHANGES = {
  'teacher.finetune': False,
  'student.init': 'random',
  'seed': SEEDS[0],
  'seeds': len(SEEDS),
  'compare': '',
  'train.batch_size': 15,
  'train.steps': 6,
  'train.rate': 3e-3,
  'train.epsilon': 1e-3,  # of gradients that are 0 but for rounding, Adam's would make whole steps
  'eval.batch_size': 18,
  'mesh.data': 3,
}


def _one(c, seed):
  own = c.copy_and_resolve_references()
  own.update(seed=seed, seeds=1)
  return own


def _params(folder):
  return net.split(hf.load(folder)[0])[1]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(config, workdir, rows) of one finished run of three seeds, on scores: no two are alike."""
  folder, rng = tmp_path_factory.mktemp('seeds'), np.random.default_rng(0)
  c = toy.config('kd', folder, rng, **CHANGES)
  with c.unlocked():
    c.task.kind, c.teacher.init = 'regression', str(toy.model(folder / 'scores', labels=1))
  for split in ('train', 'validation'):
    path = folder / f'{split}.csv'
    path.write_text(path.read_text().replace('pos', '1.5').replace('neg', '-0.5'))
  rows = jobs.run(jobs.prepare(c, folder / 'work'))
  return c, folder / 'work', rows


@pytest.mark.parametrize(
  'seed', [pytest.param(k, marks=pytest.mark.slow) for k in SEEDS[:-1]] + [SEEDS[-1]]
)
def test_each_seed_is_its_single_run(run, tmp_path, seed):
  c, workdir, rows = run
  jobs.run(jobs.prepare(_one(c, seed), tmp_path))
  alone, own = tmp_path / 'kd', workdir / 'kd' / f'seed{seed}'
  tiny.near(_params(own / 'model'), _params(alone / 'model'), seed)
  found, wanted = (json.loads((d / 'result.json').read_text()) for d in (own, alone))
  assert found.keys() == wanted.keys()
  assert found['metrics'] == pytest.approx(wanted['metrics'], rel=1e-3)
  for field in ('split', 'best_step', 'steps', 'parameters'):
    assert found[field] == wanted[field]
  # One program scores all seeds, another each model: they add up in another order, and of a
  # correlation near 0 that is more than a millionth.
  again = rows['kd']['seeds'][str(seed)]['validation']
  assert again == pytest.approx(found['metrics'], abs=1e-6)
  for one, other in zip(tiny.logged(own), tiny.logged(alone), strict=True):
    assert one.keys() == other.keys()
    tiny.near(one, other, seed)
  assert f'(seed {seed}, step' in (own / 'model' / 'README.md').read_text()


def test_means_and_spreads_are_of_all_seeds(run):
  _, workdir, rows = run
  logs = [tiny.logged(workdir / 'kd' / f'seed{seed}') for seed in SEEDS]
  for row, *own in zip(tiny.logged(workdir / 'kd'), *logs, strict=True):
    for name in own[0].keys() - {'step'}:
      values = [one[name] for one in own]
      np.testing.assert_allclose(row[name], np.mean(values), rtol=1e-6)
      np.testing.assert_allclose(row[f'{name}/std'], np.std(values, ddof=1), atol=1e-9)
  values = [own['validation']['pearson'] for own in rows['kd']['seeds'].values()]
  mean, std = np.mean(values), np.std(values, ddof=1)
  assert len(set(values)) == 3 and std > 1e-3
  assert rows['kd']['validation']['pearson'] == pytest.approx(mean)
  assert rows['kd']['std']['validation']['pearson'] == pytest.approx(std)
  text = (workdir / 'results.md').read_text()
  assert f'{mean:.4f} ± {std:.4f}' in text and 'over 3 seeds' in text
  (teacher,) = [line for line in text.splitlines() if line.startswith('| teacher')]
  assert '±' not in teacher
  result = json.loads((workdir / 'kd' / 'result.json').read_text())
  assert result['metrics']['pearson'] == pytest.approx(mean, rel=1e-3)
  assert list(result['seeds']) == [str(seed) for seed in SEEDS]


def test_each_seed_keeps_its_own_best(run):
  _, workdir, _ = run
  for seed in SEEDS:
    folder = workdir / 'kd' / f'seed{seed}'
    scores = {
      row['step']: row['validation/pearson']
      for row in tiny.logged(folder)
      if 'validation/pearson' in row
    }
    result = json.loads((folder / 'result.json').read_text())
    assert result['best_step'] == max(scores, key=scores.get)
    assert result['metrics']['pearson'] == max(scores.values())


def test_best_of_several_steps_meet_in_one_checkpoint():
  new, old = (dict(w=np.full((3, 2), x)) for x in (1.0, 0.0))
  got = seeds.choose([True, False, True], new, old)
  np.testing.assert_array_equal(got['w'], [[1, 1], [0, 0], [1, 1]])


@pytest.mark.parametrize('kind, at', [pytest.param('last', 4, marks=pytest.mark.slow), ('best', 4)])
def test_a_run_that_was_killed_goes_on_and_ends_the_same(run, tmp_path, monkeypatch, kind, at):
  c, workdir, _ = run
  save = checkpoint.Store.save

  def dies(self, step, *rest, **more):
    save(self, step, *rest, **more)
    if step >= at and kind in str(self._directory):
      raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint.Store, 'save', dies)
  with pytest.raises(KeyboardInterrupt):
    jobs.run(jobs.prepare(c, tmp_path))
  monkeypatch.setattr(checkpoint.Store, 'save', save)
  jobs.run(jobs.prepare(c, tmp_path))
  for seed in SEEDS:
    one, two = (d / 'kd' / f'seed{seed}' for d in (workdir, tmp_path))
    same = jax.tree.map(np.array_equal, _params(one / 'model'), _params(two / 'model'))
    assert jax.tree.all(same)
    assert tiny.logged(one) == tiny.logged(two)
  assert tiny.logged(workdir / 'kd') == tiny.logged(tmp_path / 'kd')


def test_it_is_done_when_all_models_are_there(run, tmp_path, monkeypatch, capsys):
  c, whole, rows = run
  workdir = shutil.copytree(whole, tmp_path / 'work')
  fit = jobs.train.fit
  monkeypatch.setattr(jobs.train, 'fit', lambda *a, **k: pytest.fail('trained again'))
  again = jobs.run(jobs.prepare(c, workdir))
  assert again['kd']['seeds'] == rows['kd']['seeds']
  monkeypatch.setattr(jobs.train, 'fit', fit)
  shutil.rmtree(workdir / 'kd' / 'seed6' / 'model')
  assert not runs.done(c, workdir / 'kd')
  dry.show(jobs.prepare(c, workdir, str(tmp_path / 'cache')))
  said = capsys.readouterr().out
  assert 'kd: 6 steps of 3 seeds' in said and 'seed 3 x data 1' in said and '[seed]' in said
  with pytest.raises(ValueError, match='seeds: 3 there, None now'):
    jobs.prepare(_one(c, SEEDS[0]), workdir)


def test_eval_predict_and_export_know_of_all_seeds(run, capsys):
  c, workdir, rows = run
  scores = inference.evaluation(c, workdir)
  assert scores['validation'] == pytest.approx(rows['kd']['validation'])
  for seed, own in rows['kd']['seeds'].items():
    assert scores['seeds'][seed]['validation'] == pytest.approx(own['validation'])
  inference.prediction(c, workdir)
  assert f'seed{SEEDS[0]}' in capsys.readouterr().out
  target = exports.export(c, workdir)
  for seed in SEEDS:
    found, wanted = map(_params, (target / f'seed{seed}', workdir / 'kd' / f'seed{seed}' / 'model'))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))


def test_what_cannot_be_is_refused_with_the_field(rng, tmp_path):
  def refused(match, method='kd', **changes):
    c = toy.config(method, tmp_path, rng, **{**CHANGES, **changes})
    with pytest.raises(ValueError, match=match):
      jobs.prepare(c, tmp_path / 'work')

  refused(r'config.seeds=0 must be at least 1', seeds=0)
  refused(r'config.seeds=3 is of students, and method mlm trains a generator alone', 'mlm')
  changes = {'mesh.data': 4, 'seeds': 2, 'eval.batch_size': 16}
  refused(r'train.batch_size=15 .* \(mesh.data=4/2 groups of seeds x mesh.fsdp=1\)', **changes)
  changes = {'teacher.finetune': True, 'teacher.steps': 1, 'train.batch_size': 16}
  refused(r'train.batch_size=16 does not split over 3 devices', **changes)  # the teacher's


@pytest.mark.parametrize('policy', ['stop', 'skip'])
def test_a_seed_whose_numbers_are_none_is_named_with_its_rows(tmp_path, policy):
  watch = guard.Guard('kd', tmp_path, policy, (3, 4, 5))
  watch.watch(7, dict(index=np.arange(6).reshape(3, 2)))
  pending = [{'student/loss': np.array([1.0, np.nan, 2.0])}]
  if policy == 'stop':
    with pytest.raises(FloatingPointError, match=r"step 7, student's turn: seed 4: loss not fin"):
      watch.fetch(pending, 7)
  else:
    (row,) = watch.fetch(pending, 7)
    assert seeds.rows([row], 3)[2] == [{'student/loss': 2.0}]
  (record,) = map(json.loads, (tmp_path / guard.FILE).read_text().splitlines())
  assert record['seed'] == 4 and record['examples'] == [2, 3]


def test_means_and_deviations_are_of_the_seeds_that_have_a_metric():
  scores = [dict(a=1.0, b=2.0), dict(a=2.0), dict(a=3.0, b=4.0)]
  assert seeds.mean(scores) == dict(a=2.0, b=3.0)
  assert seeds.std(scores) == pytest.approx(dict(a=1.0, b=np.sqrt(2)))
  assert seeds.std(scores[:1]) == {}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mlm_kd', 'mate_kd'])
def test_what_stands_beside_the_students_is_trained_once_and_shared(rng, tmp_path, name):
  changes = {'seeds': 2, 'student.init': 'random', 'compare': '', 'train.epsilon': 1e-3}
  c = toy.config(name, tmp_path, rng, **changes)
  rows = jobs.run(jobs.prepare(c, tmp_path / 'work'))
  one = _one(c, 1)
  roles = ('teacher', 'generator') if name == 'mate_kd' else ('teacher',)
  for role in roles:
    one[role].update(finetune=False, init=str(tmp_path / 'work' / role / 'model'))
  jobs.run(jobs.prepare(one, tmp_path / 'one'))
  own, alone = tmp_path / 'work' / name / 'seed1', tmp_path / 'one' / name
  found, wanted = (json.loads((d / 'result.json').read_text()) for d in (own, alone))
  for moment in {'before', 'metrics'} & wanted.keys():
    assert found[moment] == pytest.approx(wanted[moment], rel=1e-3)
  head = 'mlm' if name == 'mlm_kd' else 'classify'
  both = (net.split(hf.load(d / 'model', head=head)[0])[1] for d in (own, alone))
  tiny.near(*both, name)
  assert '±' in (tmp_path / 'work' / 'results.md').read_text()
  mean = seeds.mean([own['validation' if head == 'classify' else 'metrics']
                     for own in rows[name]['seeds'].values()])  # fmt: skip
  assert rows[name]['validation'] == pytest.approx(mean)
  assert inference.evaluation(c, tmp_path / 'work')['validation'] == pytest.approx(mean, rel=1e-3)
