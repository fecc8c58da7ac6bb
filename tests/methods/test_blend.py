"""What methods share: weights, what a view's models read, and which gradients reach the student."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cilda
from kdjax import env as environments
from kdjax import methods
from kdjax.methods import base, blend
from tests import tiny

ALONE = dict(hard=0.0, soft=0.0, augmented=1.0, hard_new=0.0)


def _quiet():
  """Without dropout."""
  env, params = tiny.world()
  return env._replace(student=environments.quiet(env.student)), params


def _batch(rng):
  return {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}


def _run(name, rng, **changes):
  """((loss, metrics), gradient of the student) of a step's loss."""
  env, params = tiny.world()
  method = methods.get(name)(tiny.fields(name, **changes), env)
  data, key = tiny.dataset(), jax.random.key(0)
  extra, memory = method.init(key, params, base.Data(data.index, data.label, 8, 400))
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  loss = lambda s: method.players['student'].loss(  # noqa: E731
    params | extra | dict(student=s), memory, batch, key
  )
  (value, (_, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params['student'])
  return value, metrics, grads


@pytest.mark.parametrize('name, changes', [('mixkd', {}), ('backward_kd', dict(first_round=1.0))])
def test_embeddings_of_a_view_train_the_students_table(rng, name, changes):
  _, _, grads = _run(name, rng, **changes, **ALONE)
  table = np.asarray(grads['embeddings']['word']['table'])
  assert np.isfinite(table).all() and np.abs(table).max() > 0


@pytest.mark.parametrize('name', ['augpro', 'mixkd', 'token_replace'])
def test_the_loss_is_its_terms_by_their_weights(rng, name):
  weights = dict(hard=0.3, soft=0.5, augmented=0.7, hard_new=1.1)
  value, metrics, _ = _run(name, rng, **weights)
  want = sum(w * metrics[k] for k, w in weights.items())
  np.testing.assert_allclose(value, want, rtol=1e-5)


def _log(z):
  z = np.asarray(z, np.float64)
  return z - np.log(np.exp(z).sum(1, keepdims=True))


@pytest.mark.parametrize('own', [False, True], ids=['gold', 'hard'])
def test_each_model_reads_its_part_of_a_view_under_the_views_masks_and_labels(rng, own):
  env, params = _quiet()
  batch, other = _batch(rng), _batch(rng)
  new = other | dict(segments=jnp.asarray(rng.integers(0, 2, other['tokens'].shape), jnp.int32))
  # Ids for the student, vectors for the teacher; text that is neither batch's.
  ids = _batch(rng)['tokens']
  vectors = jnp.asarray(rng.normal(size=(*ids.shape, 24)), jnp.float32)
  weigh = rng.random(3).astype(np.float32)

  def call(params, memory, batch, student, teacher, key):
    hard = (lambda logits: jnp.square(logits) @ weigh) if own else None
    return blend.View(ids, vectors, new, jnp.ones(8, bool), {}, hard), memory

  weights = dict(hard=0.3, soft=0.5, augmented=0.7, hard_new=1.1, temperature=2.0)
  method = blend.distil(tiny.fields('mixkd', **weights), env, blend.Part(call))
  loss, key = jax.jit(method.players['student'].loss), jax.random.key(0)
  got, (_, metrics) = loss(params, dict(view=()), batch, key)

  @jax.jit
  def outs(text, ids, vectors):
    student = env.student(params['student'], text | dict(tokens=ids))
    return student.logits, env.teacher.enter(params['teacher'], text, vectors).logits

  plain = env.teacher.embed(params['teacher'], batch['tokens'])
  logits = [outs(batch, batch['tokens'], plain), outs(new, ids, vectors)]
  hard, soft = [], []
  for text, (ours, theirs) in zip((batch, new), logits, strict=True):
    hard.append(-_log(ours)[np.arange(8), text['label']].mean())
    s, t = _log(ours / 2), _log(theirs / 2)
    soft.append(4 * (np.exp(t) * (t - s)).sum(1).mean())
  if own:
    hard[1] = (np.square(logits[1][0]) @ weigh).mean()
  np.testing.assert_allclose(metrics['augmented'], soft[1], rtol=1e-4)
  np.testing.assert_allclose(metrics['hard_new'], hard[1], rtol=1e-4)
  want = 0.3 * hard[0] + 0.5 * soft[0] + 0.7 * soft[1] + 1.1 * hard[1]
  np.testing.assert_allclose(got, want, rtol=1e-4)


# CILDA's beside MATE-KD: nothing is hidden, and its two texts are one.
ALSO = dict(name='cilda', on='both', **cilda.TERM)
TERMS = {name: (name, 1, {}) for name in ('pkd', 'rail_kd', 'codir')}
TERMS |= {'cilda': ('mate_kd', 2, dict(augmented=0.0, rho=1e-9, also=ALSO))}


@pytest.mark.parametrize('term', TERMS)
def test_the_student_follows_the_gradient_of_a_term(rng, term):
  (name, times, changes), (env, params) = TERMS[term], _quiet()
  fields = tiny.fields(name, hard=0.0, soft=0.0, **changes)
  method, data = methods.get(name)(fields, env), tiny.dataset()
  batch, key = _batch(rng), jax.random.key(int(rng.integers(1 << 30)))
  extra, memory = method.init(key, params, base.Data(data.index, data.label, 8, 400))
  params |= extra
  part = importlib.import_module(f'kdjax.methods.{term}').term(fields.get('also') or fields, env)
  k_term = jax.random.split(key, 5)[3]

  def whole(student):
    return method.players['student'].loss(params | dict(student=student), memory, batch, key)[0]

  def alone(student):
    now = params | dict(student=student)
    outs = [getattr(env, k)(now[k], batch) for k in ('student', 'teacher')]
    return times * part.call(now, memory['term'], batch, *outs, k_term)[0]

  got, want = (jax.jit(jax.grad(f))(params['student']) for f in (whole, alone))
  scale = max(np.abs(g).max() for g in jax.tree.leaves(want))
  assert scale > 1e-4
  tiny.near(*(jax.tree.map(lambda g: g / scale, tree) for tree in (got, want)), term)


def test_a_temperature_of_nothing_is_refused():
  env, _ = tiny.world()
  with pytest.raises(ValueError, match='temperature='):
    methods.get('mixkd')(tiny.fields('mixkd', temperature=0.0), env)
