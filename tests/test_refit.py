"""A classifier's bias, fitted anew at the end of a run."""

import json

import jax
import numpy as np
import pytest
from scipy import special

from benchmarks import refit as benchmark
from kdjax import evaluate, jobs, net, refit, runs
from kdjax.models import hf, vision_files
from tests import toy

STEPS = {'train.steps': 6, 'teacher.steps': 2, 'train.eval_every': 3, 'compare': ''}


def _drawn(rng, logits_NC):
  return np.array([rng.choice(len(p), p=p) for p in special.softmax(logits_NC, 1)])


@pytest.mark.parametrize('classes', [2, 3, 5])
def test_the_mean_probabilities_are_the_shares_of_the_labels(rng, classes):
  logits_NC = rng.normal(0, 3, (400, classes)).astype(np.float32)
  label_N = rng.integers(0, classes, 400)
  b_C = refit.bias(logits_NC, label_N)
  assert b_C.shape == (classes,) and b_C.dtype == np.float32
  share_C = np.bincount(label_N, minlength=classes) / 400
  mean_C = special.softmax(logits_NC + b_C, 1).mean(0)
  np.testing.assert_allclose(mean_C - share_C, -b_C / 400, atol=1e-5)  # the prior's part
  np.testing.assert_allclose(b_C.sum(), 0, atol=1e-3)


def test_without_logits_it_is_the_logarithm_of_the_shares():
  label_N = np.repeat([0, 1, 2], [10000, 20000, 70000])
  b_C = refit.bias(np.zeros((100000, 3)), label_N)
  want_C = np.log([0.1, 0.2, 0.7])
  np.testing.assert_allclose(b_C, want_C - want_C.mean(), atol=1e-3)


def test_a_shift_of_the_classes_is_found_and_undone(rng):
  logits_NC = rng.normal(0, 2, (20000, 3))
  label_N = _drawn(rng, logits_NC)
  shift_C = rng.normal(size=3)
  shift_C -= shift_C.mean()
  np.testing.assert_allclose(refit.bias(logits_NC - shift_C, label_N), shift_C, atol=0.15)
  one = refit.bias(logits_NC, label_N)
  np.testing.assert_allclose(refit.bias(logits_NC - shift_C, label_N) - one, shift_C, atol=0.01)


def test_a_class_that_no_label_has_stays_finite():
  b_C = refit.bias(np.zeros((50, 3)), np.arange(50) % 2)
  assert np.isfinite(b_C).all() and -5 < b_C[2] < -1 and b_C[0] == pytest.approx(b_C[1])


@pytest.mark.parametrize(
  'logits_NC, label_N',
  [(np.zeros((0, 2)), []), (np.zeros((2, 2)), [0, -1]), (np.full((2, 2), np.nan), [0, 1])],
)
def test_what_cannot_be_fitted_is_refused(logits_NC, label_N):
  with pytest.raises(ValueError, match='finite logits of one or more rows that all have a label'):
    refit.bias(logits_NC, np.array(label_N, int))


def _config(tmp_path, rng, **changes):
  return toy.config('kd', tmp_path, rng, **STEPS | changes)


def _logits(c, workdir, folder):
  """Of the validation split, by the model as it was saved, and the labels."""
  plan = jobs.prepare(c, workdir)
  model = hf.load(folder)[0]
  data = plan.data['validation']
  forward, params = net.split(model)
  found = evaluate.logits(evaluate.forward(forward, plan.mesh), params, data, *plan.scoring)
  return found, data.label


@pytest.mark.parametrize('seeds', [1, 2])
def test_a_run_ends_with_the_bias_that_its_validation_split_fits(rng, tmp_path, seeds):
  c = _config(tmp_path, rng, seeds=seeds)
  jobs.run(jobs.prepare(c, tmp_path / 'plain'))
  own = c.copy_and_resolve_references()
  own.train.refit_bias = True
  jobs.run(jobs.prepare(own, tmp_path / 'refit'))
  for folder in runs.folders(c, tmp_path / 'plain' / 'kd').values():
    again = tmp_path / 'refit' / folder.relative_to(tmp_path / 'plain')
    plain, label = _logits(c, tmp_path / 'plain', folder / 'model')
    found, _ = _logits(own, tmp_path / 'refit', again / 'model')
    b_C = refit.bias(plain, label)
    assert np.abs(b_C).max() > 1e-3
    np.testing.assert_allclose(found, plain + b_C, rtol=1e-4, atol=1e-5)
    result = json.loads((again / 'result.json').read_text())
    assert result['metrics']['accuracy'] == pytest.approx((found.argmax(1) == label).mean())
    was = json.loads((folder / 'result.json').read_text())
    assert result['best_step'] == was['best_step']
  # The teacher is the same, and a workdir from before the field goes on.
  for name in ('teacher', 'kd'):
    assert 'train.refit_bias' not in runs.asked(c, name)
  assert runs.asked(own, 'kd')['train.refit_bias'] is True
  assert runs.asked(own, 'teacher') == runs.asked(c, 'teacher')


def test_pixels_have_such_a_bias_too(rng):
  for word in ('mlp:6,5', 'resnet:4'):
    model = vision_files.build(vision_files.config(word, (4, 4, 2), list('abc')), jax.random.key(1))
    cut, params = net.split(model)
    by_C = rng.normal(size=3).astype(np.float32)
    x = rng.uniform(0, 1, (2, 16, 2)).astype(np.float32)
    batch = dict(tokens=x, segments=np.zeros((2, 16), np.int32), mask=np.ones((2, 16), bool))
    before, after = (cut(p, batch).logits for p in (params, refit.moved(params, by_C)))
    np.testing.assert_allclose(after, before + by_C[None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', ['regression', 'multilabel'])
def test_other_kinds_are_refused_before_anything_is_trained(rng, tmp_path, kind):
  c = _config(tmp_path, rng, **{'train.refit_bias': True})
  with c.unlocked():
    c.task.kind = kind
  with pytest.raises(ValueError, match=r'refit_bias=True is for students that say one class'):
    jobs.prepare(c, tmp_path / 'work')
  assert not any((tmp_path / 'work').iterdir())


def test_the_benchmark_decides_as_such_a_run_would(rng, tmp_path, capsys):
  label_N = rng.integers(0, 2, 300)
  for name in ('kd', 'augpro'):
    folder = tmp_path / name / 'predictions'
    folder.mkdir(parents=True)
    for split in ('development', 'validation'):
      logits_SNC = rng.normal(size=(2, 300, 2)) + np.eye(2)[label_N] + [0, -2 * (name == 'augpro')]
      np.savez(folder / f'{split}.npz', logits=logits_SNC.astype(np.float32), label=label_N)
  plain, again = (benchmark.decided(folder, 'validation', new) for new in (False, True))
  with np.load(folder / 'development.npz') as file:
    by_SC = [refit.bias(own, label_N) for own in file['logits']]
  for own, found, logits_NC, by_C in zip(plain[0], again[0], logits_SNC, by_SC, strict=True):
    np.testing.assert_array_equal(own, logits_NC.argmax(1))
    np.testing.assert_array_equal(found, (logits_NC + by_C).argmax(1))
    assert abs(found.mean() - label_N.mean()) < 0.15 < label_N.mean() - own.mean()
  benchmark.main([f'--workdir={tmp_path}', '--methods=kd,augpro'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 6 and '[-' in lines[4] and '~' not in lines[4]
