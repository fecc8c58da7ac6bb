"""Token replacement: which candidates a token has, and which tokens are replaced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kdjax import methods
from kdjax.methods import token_replace
from tests import tiny

ORDINARY = np.arange(tiny.VOCAB) >= tiny.SPECIAL


def _batch(rng, rows=8):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng, rows).items()}


def _replaced(rng, batch, **changes):
  """(new ids, metrics, memory)."""
  env, params = tiny.world()
  part = token_replace.view(tiny.fields('token_replace', **changes), env)
  key = jax.random.key(int(rng.integers(1 << 30)))
  _, memory = part.init(key, params, None)
  view, _ = jax.jit(part.call)(params, memory, batch, None, None, key)
  np.testing.assert_array_equal(view.student, view.teacher)
  return np.asarray(view.student), jax.device_get(view.metrics), memory


@pytest.mark.parametrize('block', [7, 1024])
def test_neighbours_are_the_nearest_ordinary_rows_by_cosine(rng, monkeypatch, block):
  monkeypatch.setattr(token_replace, '_BLOCK', block)
  table = rng.normal(size=(tiny.VOCAB, 6)).astype(np.float32)
  got = token_replace.nearest(jnp.asarray(table), jnp.asarray(ORDINARY), 4)
  unit = table / np.linalg.norm(table, axis=1, keepdims=True)
  cosine = np.where(ORDINARY[None], unit @ unit.T, -np.inf)
  np.fill_diagonal(cosine, -np.inf)
  np.testing.assert_array_equal(got, np.argsort(-cosine, axis=1, kind='stable')[:, :4])
  assert got.dtype == jnp.int32


def test_a_token_is_replaced_by_one_of_its_neighbours(rng):
  batch = _batch(rng)
  new, metrics, near = _replaced(rng, batch, portion=1.0)
  old, maskable = np.asarray(batch['tokens']), np.asarray(batch['maskable'])
  np.testing.assert_array_equal(new[~maskable], old[~maskable])
  assert (new[..., None] == np.asarray(near)[old]).any(-1)[maskable].all()
  assert metrics['moved'] == 1


def test_each_candidate_is_drawn_as_often(rng):
  batch = _batch(rng, 400)
  new, _, near = _replaced(rng, batch, portion=1.0, candidates=5)
  place = (new[..., None] == np.asarray(near)[batch['tokens']])[np.asarray(batch['maskable'])]
  assert stats.chisquare(place.sum(0)).pvalue > 1e-6


def test_a_token_is_replaced_by_what_the_generator_expects_there(rng):
  env, params = tiny.world()
  batch = _batch(rng)
  new, metrics, memory = _replaced(rng, batch, kind='mlm', portion=1.0, candidates=3)
  assert memory == () and metrics['moved'] == 1
  old, maskable = np.asarray(batch['tokens']), np.asarray(batch['maskable'])
  hidden = batch | dict(tokens=jnp.where(batch['maskable'], tiny.MASK, batch['tokens']))
  logits = np.array(env.generator(params['generator'], hidden).logits)
  logits = np.where(ORDINARY[None, None], logits, -np.inf)
  np.put_along_axis(logits, old[..., None], -np.inf, -1)
  want = np.argsort(-logits, axis=-1)[..., :3]
  np.testing.assert_array_equal(new[~maskable], old[~maskable])
  # Two logits may be as good as equal.
  assert (new[..., None] == want).any(-1)[maskable].mean() > 0.95


def test_rows_that_pad_the_generators_table_are_never_written(rng):
  env, params = tiny.world()
  more, decode = int(rng.integers(1, 9)), env.generator.decode

  def padded(params, states_BD):  # the likeliest of all
    return jnp.pad(decode(params, states_BD), ((0, 0), (0, more)), constant_values=1e4)

  c, key = tiny.fields('token_replace', kind='mlm', portion=1.0), jax.random.key(more)
  batch = _batch(rng)
  found = []
  for generator in (env.generator, dataclasses.replace(env.generator, decode=padded)):
    part = token_replace.view(c, env._replace(generator=generator))
    found.append(jax.jit(part.call)(params, (), batch, None, None, key)[0].student)
  np.testing.assert_array_equal(*found)


def test_the_portion_is_the_share_that_changes(rng):
  env, params = tiny.world()
  part = token_replace.view(tiny.fields('token_replace'), env)
  _, memory = part.init(None, params, None)
  call, key = jax.jit(part.call), jax.random.key(int(rng.integers(1 << 30)))
  found = [
    call(params, memory, _batch(rng), None, None, jax.random.fold_in(key, n))[0].metrics['moved']
    for n in range(30)  # some 1,200 tokens
  ]
  assert 0.3 < np.mean(found) < 0.5
  assert _replaced(rng, _batch(rng), portion=0.0)[1]['moved'] == 0


def test_every_step_draws_anew(rng):
  batch = _batch(rng)
  one, two = (_replaced(rng, batch)[0] for _ in range(2))
  assert (one != two).any()


def test_what_cannot_be_asked_for_is_refused_by_name():
  env, _ = tiny.world()
  make = methods.get('token_replace')
  for field, value in (('kind', 'x'), ('portion', 1.5), ('candidates', 0), ('candidates', 55)):
    with pytest.raises(ValueError, match=f'config.method.{field}='):
      make(tiny.fields('token_replace', **{field: value}), env)
  with pytest.raises(ValueError, match=r'config\.generator'):
    make(tiny.fields('token_replace', kind='mlm'), env._replace(generator=None))
  env, _ = tiny.world(mismatch='7 of 60 token ids differ')
  with pytest.raises(ValueError, match='7 of 60 token ids differ'):
    make(tiny.fields('token_replace'), env)
