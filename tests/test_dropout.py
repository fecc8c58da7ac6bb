"""config.train.dropout: who has it."""

import jax
import numpy as np
import pytest

from kdjax import jobs, net
from tests import tiny, toy


@pytest.mark.parametrize('dropout', [True, False])
def test_student_and_generator_drop_out_as_the_config_says(rng, tmp_path, dropout):
  changes = {'train.dropout': dropout, 'compare': ''}
  plan = jobs.prepare(toy.config('mate_kd', tmp_path, rng, **changes), tmp_path / 'work')
  batch, key = tiny.batch(rng), jax.random.key(int(rng.integers(1 << 30)))
  batch['tokens'] = batch['tokens'] % (len(toy.WORDS) + len(toy.SPECIAL))
  for name in ('student', 'generator'):
    model, params = getattr(plan.env, name), net.split(getattr(plan, name).module)[1]
    run = jax.jit(model)
    still, noisy = run(params, batch), run(params, batch, key)
    for field in ('logits', 'hidden'):
      same = np.array_equal(getattr(still, field), getattr(noisy, field))
      assert same == (not dropout), (name, field)
