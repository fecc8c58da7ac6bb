"""MixKD: one partner and one lambda for both models, read off from one-hot word vectors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import methods
from kdjax.methods import mixkd
from tests import tiny


def _batch(rng, **kwargs):
  """A batch whose row b begins with the token b: a mixture there names its two rows."""
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng, **kwargs).items()}
  batch['tokens'] = batch['tokens'].at[:, 0].set(jnp.arange(8))
  return batch


def _mixed(rng, env, batch, **changes):
  """(View, lambda [B, B] of row b on row i) with one-hot vectors for word embeddings."""
  hot = lambda params, ids: jax.nn.one_hot(ids, tiny.VOCAB)  # noqa: E731
  env = env._replace(
    student=dataclasses.replace(env.student, embed=hot),
    teacher=dataclasses.replace(env.teacher, embed=lambda p, ids: 2 * hot(p, ids)),
  )
  part = mixkd.view(tiny.fields('mixkd', **changes), env)
  key = jax.random.key(int(rng.integers(1 << 30)))
  params = dict(student=None, teacher=None)
  view, memory = part.call(params, (), batch, None, None, key)
  assert memory == ()
  return view, np.asarray(view.student)[:, 0, :8]


def test_both_models_mix_the_same_two_texts_in_the_same_proportion(rng):
  env, _ = tiny.world()
  batch = _batch(rng)
  view, lam_BB = _mixed(rng, env, batch)
  np.testing.assert_allclose(lam_BB.sum(1), 1, rtol=1e-6)
  np.testing.assert_array_equal(view.changed, np.diagonal(lam_BB) < 1)
  assert (np.count_nonzero(lam_BB, axis=1) <= 2).all()
  rows_BLV = np.eye(tiny.VOCAB)[np.asarray(batch['tokens'])]
  want = np.einsum('bi,ilv->blv', lam_BB, rows_BLV)
  np.testing.assert_allclose(view.student, want, atol=1e-6)
  np.testing.assert_allclose(view.teacher, 2 * want, atol=1e-6)
  np.testing.assert_array_equal(view.batch['mask'], (lam_BB > 0) @ np.asarray(batch['mask']))
  own = np.diagonal(lam_BB)
  mixed = np.where(own < 1, np.minimum(own, 1 - own), 0).mean()
  np.testing.assert_allclose(view.metrics['mixed'], mixed, atol=1e-6)


def test_models_with_tokenizers_of_their_own_each_mix_their_own_text(rng):
  env, _ = tiny.world(mismatch='7 of 60 token ids differ')
  env = env._replace(teacher=dataclasses.replace(env.teacher, view='teacher_'))
  batch = _batch(rng)
  theirs = tiny.batch(rng)
  batch |= {f'teacher_{k}': jnp.asarray(theirs[k]) for k in ('tokens', 'segments', 'mask')}
  view, lam_BB = _mixed(rng, env, batch)
  rows_BLV = 2 * np.eye(tiny.VOCAB)[np.asarray(batch['teacher_tokens'])]
  np.testing.assert_allclose(view.teacher, np.einsum('bi,ilv->blv', lam_BB, rows_BLV), atol=1e-6)
  for name in ('mask', 'teacher_mask'):
    want = (lam_BB > 0) @ np.asarray(batch[name])
    np.testing.assert_array_equal(view.batch[name], want)


@pytest.mark.parametrize('kind', ['classes', 'regression', 'multilabel'])
def test_gold_labels_are_mixed_in_the_proportion_of_the_texts(rng, kind):
  env, _ = tiny.world(kind)
  batch = _batch(rng, kind=kind)
  view, lam_BB = _mixed(rng, env, batch)
  label = np.asarray(batch['label'])
  label = np.eye(3)[label] if kind == 'classes' else label.reshape(8, -1)
  mixed = lam_BB @ label
  logits = rng.normal(size=(8, label.shape[1])).astype(np.float32)
  # What the loss on the mixed label itself has for a gradient.
  want = {
    'classes': lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True) - mixed,
    'regression': lambda z: 2 * (z - mixed),
    'multilabel': lambda z: 1 / (1 + np.exp(-z)) - mixed,
  }[kind](logits)
  got = jax.grad(lambda z: view.hard(z).sum())(jnp.asarray(logits))
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_larger_alpha_mixes_more(rng):
  env, _ = tiny.world()
  few, many = (
    np.mean([_mixed(rng, env, _batch(rng), alpha=a)[0].metrics['mixed'] for _ in range(5)])
    for a in (0.01, 50.0)
  )
  assert few < 0.1 < 0.25 < many


def test_alpha_must_be_above_zero():
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=r'config\.method\.alpha='):
    methods.get('mixkd')(tiny.fields('mixkd', alpha=0.0), env)
