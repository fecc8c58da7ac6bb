"""Masked language modelling: what is shown, what is asked, and that it is learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env as environments
from kdjax import methods, sharding, train
from tests import tiny


def _world():
  """Without dropout, the student with a masked-LM head."""
  env, params = tiny.world(student_head='mlm')
  return env._replace(student=environments.quiet(env.student), teacher=None), params


def _batch(rng, rows: int = 8):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng, rows).items()}


def _made(env, **changes):
  return methods.get('mlm')(tiny.fields('mlm', **changes), env).players['student'].loss


def _guess(env, params, batch, hidden):
  """(mean cross-entropy, accuracy) over the hidden places, each shown as a [MASK]."""
  shown = batch | dict(tokens=jnp.where(hidden, tiny.MASK, batch['tokens']))
  logits = np.asarray(jax.jit(env.student)(params['student'], shown).logits, np.float64)[hidden]
  gold = np.asarray(batch['tokens'])[hidden]
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  return -log_p[np.arange(len(gold)), gold].mean(), (logits.argmax(1) == gold).mean()


def test_the_loss_is_the_cross_entropy_of_what_is_hidden(rng):
  env, params = _world()
  batch = _batch(rng)
  # With rho = 1 nothing is left to chance: every ordinary token is a [MASK].
  loss = jax.jit(_made(env, rho=1.0, style='mask'))
  got, (memory, metrics) = loss(params, (), batch, jax.random.key(0))
  guess, top1 = _guess(env, params, batch, np.asarray(batch['maskable']))
  np.testing.assert_allclose(got, guess, rtol=1e-5)
  np.testing.assert_allclose(metrics['top1'], top1, rtol=1e-6)
  assert metrics['overflow'] == 0 and memory == ()


def test_labels_are_not_asked(rng):
  env, params = _world()
  batch, loss = _batch(rng), jax.jit(_made(env))
  got = [
    loss(params, (), batch | dict(label=label), jax.random.key(0))[0]
    for label in (batch['label'], batch['label'] + 1)
  ]
  assert got[0] == got[1]


def _asked(env, params, batch, key, **changes):
  """(what the model was shown, loss, metrics)."""
  seen = []

  def embed(own, tokens):
    seen.append(tokens)
    return env.student.embed(own, tokens)

  spied = env._replace(student=dataclasses.replace(env.student, embed=embed))
  loss, (_, metrics) = _made(spied, **changes)(params, (), batch, key)
  return np.asarray(seen[0]), loss, metrics


def _shown(rng, style, rows=2000):
  """(tokens, maskable, what the model was shown), all hidden."""
  batch, key = _batch(rng, rows), jax.random.key(int(rng.integers(2**31)))
  shown, *_ = _asked(*_world(), batch, key, rho=1.0, style=style)
  return (np.asarray(x) for x in (batch['tokens'], batch['maskable'], shown))


def test_bert_shows_a_mask_a_random_word_or_the_word_itself(rng):
  tokens, maskable, shown = _shown(rng, 'bert')
  np.testing.assert_array_equal(shown[~maskable], tokens[~maskable])
  was, now = tokens[maskable], shown[maskable]
  n, words = len(was), tiny.VOCAB - tiny.SPECIAL
  spread = lambda p: 6 * np.sqrt(p * (1 - p) / n)  # noqa: E731
  assert abs((now == tiny.MASK).mean() - 0.8) < spread(0.8)
  other = (now != tiny.MASK) & (now != was)
  assert abs(other.mean() - 0.1 * (1 - 1 / words)) < spread(0.1)
  # Every ordinary word is drawn, and no other.
  assert set(now[other]) == set(range(tiny.SPECIAL, tiny.VOCAB))


def test_the_other_style_shows_masks_alone(rng):
  tokens, maskable, shown = _shown(rng, 'mask', rows=50)
  np.testing.assert_array_equal(shown, np.where(maskable, tiny.MASK, tokens))


def test_what_finds_no_slot_is_counted_and_not_asked(rng):
  env, params = _world()
  batch, key = _batch(rng, 256), jax.random.key(int(rng.integers(2**31)))
  # Half of 12 places, less their deviation of 1.7: five slots a row.
  shown, loss, metrics = _asked(env, params, batch, key, rho=0.5, slack=-1.0, style='mask')
  kept = shown == tiny.MASK
  half = jax.random.uniform(jax.random.split(key, 3)[0], kept.shape) < 0.5
  drawn = np.asarray(batch['maskable'] & half).sum(1)
  np.testing.assert_array_equal(kept.sum(1), np.minimum(drawn, 5))
  assert metrics['overflow'] == drawn.sum() - kept.sum() > 0
  np.testing.assert_allclose(loss, _guess(env, params, batch, kept)[0], rtol=1e-5)


def test_it_learns_to_guess_from_the_rest_of_the_row(rng):
  env, params = _world()
  method = methods.get('mlm')(tiny.fields('mlm', rho=0.3), env)
  mesh, steps = sharding.make_mesh(1), 150
  fields = tiny.train_fields(steps=steps, rate=1e-2, batch_size=32)
  game = train.start(method, params, tiny.dataset(), fields, steps, mesh)
  state, found = game.state, []
  for _ in range(steps):
    batch = tiny.batch(rng, 32)
    word = rng.integers(tiny.SPECIAL, tiny.SPECIAL + 8, (32, 1))  # one word, said over and over
    batch['tokens'] = np.where(batch['maskable'], word, batch['tokens']).astype(np.int32)
    state, metrics = game.steps['student'](state, game.frozen, sharding.put(batch, mesh), game.key)
    found.append(float(metrics['student/top1']))
  assert np.mean(found[:5]) < 0.3 < 0.7 < np.mean(found[-10:])


def test_bad_fields_and_a_tokenizer_without_a_mask_are_refused():
  env, _ = _world()
  with pytest.raises(ValueError, match=r"config.method.style='electra' is none of bert, mask"):
    _made(env, style='electra')
  for rho in (0.0, 1.5):
    with pytest.raises(ValueError, match=r'config.method.rho'):
      _made(env, rho=rho)
  with pytest.raises(ValueError, match='no mask token'):
    _made(env._replace(mask_id=None))
