"""What methods share: weights, and which gradients a view carries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import methods
from kdjax.methods import base
from tests import tiny

ALONE = dict(hard=0.0, soft=0.0, augmented=1.0, hard_new=0.0)


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


def test_a_temperature_of_nothing_is_refused():
  env, _ = tiny.world()
  with pytest.raises(ValueError, match='temperature='):
    methods.get('mixkd')(tiny.fields('mixkd', temperature=0.0), env)
