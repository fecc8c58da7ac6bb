"""AugPro: what it rewrites, what it leaves, and what its metrics say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import augment, methods
from kdjax import env as environments
from kdjax.methods import augpro
from tests import tiny


def _rewritten(rng, **changes):
  """(batch, the new ids that the teacher labelled, metrics, loss) of one call, no dropout."""
  env, params = tiny.world()
  embed = env.teacher.embed
  seen = []

  def spy(params, ids):
    jax.debug.callback(lambda new: seen.append(np.asarray(new)), ids, ordered=True)
    return embed(params, ids)

  env = env._replace(
    student=environments.quiet(env.student), teacher=dataclasses.replace(env.teacher, embed=spy)
  )
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  method = methods.get('augpro')(tiny.fields('augpro', **changes), env)
  key = jax.random.key(int(rng.integers(1 << 30)))
  _, memory = method.init(key, params, None)
  loss, (_, metrics) = jax.jit(method.players['student'].loss)(params, memory, batch, key)
  jax.effects_barrier()
  return batch, seen[-1], jax.device_get(metrics), float(loss)


VARIANTS = [
  {},
  dict(kind='fgsm', epsilon=2.0),
  dict(kind='fgsm', epsilon=2.0, table='teacher'),
  dict(forbid_own=True, lam_mode='example', alpha=0.4),
  dict(lam_mode='fixed', metric='cos'),
  dict(metric='centred', table='teacher'),
]


@pytest.mark.parametrize('changes', VARIANTS, ids=str)
def test_only_ordinary_tokens_change_and_only_to_ordinary_ones(rng, changes):
  batch, new, metrics, _ = _rewritten(rng, **changes)
  old, maskable = np.asarray(batch['tokens']), np.asarray(batch['maskable'])
  np.testing.assert_array_equal(new[~maskable], old[~maskable])
  assert (new[maskable] >= tiny.SPECIAL).all()
  np.testing.assert_allclose(metrics['moved'], (new != old).sum() / maskable.sum(), rtol=1e-6)
  assert metrics['moved'] > 0


@pytest.mark.parametrize('changes', [dict(portion=0.0), dict(kind='fgsm', epsilon=0.0)], ids=str)
def test_a_silent_no_op_shows_in_the_metrics(rng, changes):
  batch, new, metrics, loss = _rewritten(rng, **changes)
  np.testing.assert_array_equal(new, batch['tokens'])
  assert metrics['moved'] == metrics['third'] == metrics['relabelled'] == 0
  np.testing.assert_allclose(metrics['augmented'], metrics['soft'], rtol=1e-5)  # the same text
  np.testing.assert_allclose(loss, metrics['hard'] + 2 * metrics['soft'], rtol=1e-5)


def test_forbidding_own_tokens_leaves_none_and_finds_only_third_ones(rng):
  batch, new, metrics, _ = _rewritten(rng, forbid_own=True)
  changed = new != np.asarray(batch['tokens'])
  assert metrics['third'] == 1 and 0 < metrics['moved'] <= 1
  assert changed[np.asarray(batch['maskable'])].mean() == pytest.approx(metrics['moved'])


def test_a_mixture_in_a_table_of_near_orthogonal_rows_is_a_token_swap(rng):
  # Wide tables of random rows: no third token is near a mixture of two.
  table = jnp.asarray(rng.normal(size=(tiny.VOCAB, 512)), jnp.float32)
  ids = rng.integers(tiny.SPECIAL, tiny.VOCAB, (2, 200))
  lam = rng.random(200)
  q = augment.mixup(table[ids[0]][None], table[ids[1]][None], jnp.asarray(lam)[None])
  got = np.asarray(augment.nearest_token(q, table))[0]
  np.testing.assert_array_equal(got, np.where(lam > 0.5, *ids))


def _mixed(rng, monkeypatch, **changes):
  """(lambda, own ids, partners' ids, where they may mix, new ids, metrics): rows far apart."""
  table = jnp.asarray(rng.normal(size=(tiny.VOCAB, 512)), jnp.float32)
  mixup, seen = augment.mixup, []
  monkeypatch.setattr(augment, 'mixup', lambda *args: seen.append(args) or mixup(*args))
  env, _ = tiny.world()
  student = dataclasses.replace(
    env.student, embed=lambda table, ids: table[ids], table=lambda table: table
  )
  c = tiny.fields('augpro', neighbours=0, **changes)
  view = augpro.view(c, env._replace(student=student))
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng, 32).items()}
  key = jax.random.key(int(rng.integers(1 << 30)))
  new, _ = view.call(dict(student=table), (), batch, None, None, key)
  ((own, other, lam),) = seen
  own, other = (np.asarray((x @ table.T).argmax(-1)) for x in (own, other))
  np.testing.assert_array_equal(own, batch['tokens'])
  usable = np.asarray(batch['maskable']) & (other >= tiny.SPECIAL)
  return np.asarray(lam), own, other, usable, np.asarray(new.student), new.metrics


@pytest.mark.parametrize('lam, swapped', [(0.9, False), (0.1, True)])
def test_a_fixed_lambda_swaps_every_token_or_none(rng, monkeypatch, lam, swapped):
  found = _mixed(rng, monkeypatch, lam_mode='fixed', lam=lam)
  _, own, other, usable, new, metrics = found
  np.testing.assert_array_equal(new, np.where(usable & swapped, other, own))
  assert (metrics['moved'] > 0) == swapped and metrics['third'] == 0


def test_a_tie_is_broken_by_the_key_and_not_by_rounding(rng, monkeypatch):
  seed = int(rng.integers(1 << 30))
  tie = dict(lam_mode='fixed', lam=0.5)
  lam, own, other, usable, new, _ = _mixed(np.random.default_rng(seed), monkeypatch, **tie)
  np.testing.assert_array_equal(new, np.where(usable & (lam < 0.5), other, own))
  assert 0.3 < (lam < 0.5).mean() < 0.7 and np.abs(lam - 0.5).max() <= 1e-3
  monkeypatch.undo()
  again = _mixed(np.random.default_rng(seed), monkeypatch, **tie)
  np.testing.assert_array_equal(again[4], new)
  monkeypatch.undo()
  assert (_mixed(np.random.default_rng(seed + 1), monkeypatch, **tie)[0] != lam).mean() > 0.9


@pytest.mark.parametrize('field, value', [('portion', -0.5), ('lam', 7.0), ('epsilon', -1.0)])
def test_numbers_out_of_range_are_refused(field, value):
  with pytest.raises(ValueError, match=f'config.method.{field}={value} must be'):
    methods.get('augpro')(tiny.fields('augpro', **{field: value}), tiny.world()[0])


@pytest.mark.parametrize('fields, said', [
  (dict(name='cilda', weigth=1.0), "also of 'cilda': .*weight.*TERM of configs/cilda.py"),
  (dict(name='codir'), "also of 'codir': .*TERM of configs/codir.py"),
  (dict(name='kd'), "name='kd' has no term: codir"),
])  # fmt: skip
def test_what_a_term_beside_it_lacks_is_named(fields, said):
  with pytest.raises(ValueError, match=said):
    methods.get('augpro')(tiny.fields('augpro', also=dict(on='text', **fields)), tiny.world()[0])


def test_of_an_example_all_tokens_are_its_own_or_all_its_partners(rng, monkeypatch):
  lam, own, other, usable, new, _ = _mixed(rng, monkeypatch, lam_mode='example')
  lam = lam[:, :1]
  np.testing.assert_array_equal(new, np.where(usable & (lam < 0.5), other, own))
  assert len(set(lam[:, 0])) > len(lam) / 2


@pytest.mark.parametrize('alpha', [0.01, 1.0, 50.0])
def test_lambda_is_spread_as_beta_is(rng, monkeypatch, alpha):
  lam = _mixed(rng, monkeypatch, alpha=alpha)[0]
  # The variance of Beta(alpha, alpha); of 384 draws it is known to 7 %.
  want = 1 / (4 * (2 * alpha + 1))
  np.testing.assert_allclose(np.square(lam - 0.5).mean(), want, rtol=0.4)


def test_a_smaller_portion_moves_fewer_tokens(rng):
  seed = int(rng.integers(1 << 30))
  few, all_ = (
    _rewritten(np.random.default_rng(seed), forbid_own=True, portion=p)[2]['moved']
    for p in (0.2, 1.0)
  )
  assert few < all_


def test_relabelled_counts_texts_whose_teacher_label_changed(rng):
  batch, new, metrics, _ = _rewritten(rng, forbid_own=True)
  env, params = tiny.world()
  labels = [
    np.asarray(env.teacher(params['teacher'], batch | dict(tokens=jnp.asarray(t))).logits).argmax(1)
    for t in (batch['tokens'], new)
  ]
  fresh = (new != np.asarray(batch['tokens'])).any(1)
  want = (labels[0] != labels[1])[fresh].sum() / fresh.sum()
  np.testing.assert_allclose(metrics['relabelled'], want, rtol=1e-6)


PROVED = [{}, dict(table='teacher'), dict(kind='fgsm', epsilon=0.1, neighbours=4)]


@pytest.mark.parametrize('changes', PROVED, ids=str)
def test_proofs_change_neither_text_nor_gradient_as_the_student_learns(rng, changes):
  """Four steps of a student that moves, its projections proved or searched for."""
  env, start = tiny.world()
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(rng).items()}
  key = jax.random.key(int(rng.integers(1 << 30)))
  runs = []
  for neighbours in (3, 0):
    method = methods.get('augpro')(
      tiny.fields('augpro', **changes | dict(neighbours=neighbours)), env
    )
    _, memory = method.init(key, start, None)
    assert neighbours or memory['view'] == ()
    loss, params, seen = method.players['student'].loss, start, []

    def step(student, memory, n, loss=loss):
      rest = dict(teacher=start['teacher'], student=student)
      return loss(rest, memory, batch, jax.random.fold_in(key, n))

    step = jax.jit(jax.value_and_grad(step, has_aux=True))
    student = params['student']
    for n in range(4):
      (value, (memory, metrics)), grads = step(student, memory, n)
      seen.append((value, metrics.pop('settled'), metrics, grads))
      student = jax.tree.map(lambda p, g: p - 0.02 * g, student, grads)
    runs.append(seen)
  # Of one step nothing may be proved: how far fgsm goes is much for so small a table.
  assert sum(step[1] for step in runs[0]) > 0 == sum(step[1] for step in runs[1])
  for with_proofs, without in zip(*runs, strict=True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      (with_proofs[0], *with_proofs[2:]),
      (without[0], *without[2:]),
    )


@pytest.mark.parametrize('changes', [dict(forbid_own=True), dict(metric='dot')], ids=str)
def test_what_has_no_proof_is_searched_for_and_remembers_nothing(rng, changes):
  env, params = tiny.world()
  method = methods.get('augpro')(tiny.fields('augpro', **changes), env)
  assert jax.tree.leaves(method.init(jax.random.key(0), params, None)[1]) == []
  assert _rewritten(rng, **changes)[2]['settled'] == 0


def test_different_token_ids_are_refused_with_the_reason():
  env, _ = tiny.world(mismatch='7 of 60 token ids differ')
  with pytest.raises(ValueError, match='7 of 60 token ids differ'):
    methods.get('augpro')(tiny.fields('augpro'), env)
  for name in ('finetune', 'kd'):  # class-level methods work on both tokenisations
    assert methods.get(name)(tiny.fields(name), env).players


WRONG = [('kind', 'x'), ('lam_mode', 'x'), ('table', 'x'), ('metric', 'l3')]
WRONG += [('neighbours', -1), ('neighbours', 65)]
WRONG += [('alpha', 0.0), ('temperature', 0.0), ('temperature', float('nan'))]


@pytest.mark.parametrize('field, value', WRONG)
def test_a_switch_or_number_out_of_range_is_refused_by_name(field, value):
  env, _ = tiny.world()
  with pytest.raises(ValueError, match=f'config.method.{field}='):
    methods.get('augpro')(tiny.fields('augpro', **{field: value}), env)
