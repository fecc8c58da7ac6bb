"""The schedule and the optimizer by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import optim
from tests import tiny


def test_the_rate_rises_then_falls_to_zero():
  rate = optim.schedule(1.0, 100, 0.1)
  values = [float(rate(s)) for s in range(101)]
  assert np.argmax(values) == 10 and values[10] == 1.0 and values[0] > 0
  assert values[100] == 0
  np.testing.assert_allclose(values[55], 0.5)
  assert (np.diff(values[:11]) > 0).all() and (np.diff(values[10:]) < 0).all()


def test_without_warm_up_the_first_step_is_the_whole_rate():
  assert float(optim.schedule(0.3, 10, 0.0)(0)) == np.float32(0.3)


def test_vectors_do_not_decay_and_matrices_do():
  params = dict(kernel=jnp.ones((2, 2)), bias=jnp.ones(2), scale=jnp.ones(2))
  c = tiny.train_fields(decay=0.5, rate=0.1)
  chain = optim.make(c, 10)
  updates, _ = chain.update(jax.tree.map(jnp.zeros_like, params), chain.init(params), params)
  np.testing.assert_allclose(updates['kernel'], -0.05, rtol=1e-6)
  assert (updates['bias'] == 0).all() and (updates['scale'] == 0).all()


def test_the_gradient_is_clipped_by_its_global_norm():
  # Adam forgets the scale of a first gradient: clip alone is what is seen here.
  c = tiny.train_fields(clip=1.0, decay=0.0, rate=1.0, epsilon=1e3, beta1=0.0, beta2=0.0)
  params = dict(a=jnp.zeros(2))
  chain = optim.make(c, 10)
  updates, _ = chain.update(dict(a=jnp.array([30.0, 40.0])), chain.init(params), params)
  # Clipped to (0.6, 0.8); with epsilon far larger than |g|, Adam divides by epsilon.
  np.testing.assert_allclose(-updates['a'] * 1e3, [0.6, 0.8], rtol=2e-3)
