"""The encoder by itself: dropout, precision, masks, lengths, heads."""

import itertools

import jax
import jax.numpy as jnp
import model_zoo
import numpy as np
import pytest

from kdjax import net
from kdjax.models import bert, encoders, families, hf


def small(family='bert', head='classify', dtype='float32', attention='einsum', **changes):
  """(net, params, batch)."""
  conf = model_zoo.config(family, **changes)
  module = hf.build(conf, head=head, dtype=dtype, attention=attention, seed=1)
  return *net.split(module), model_zoo.inputs(conf, model_zoo.fresh_seed())


def test_parameters_are_float32_with_string_keys():
  for family, dtype in itertools.product(model_zoo.FAMILIES, families.DTYPES):
    spec = families.spec(model_zoo.config(family), dtype=dtype)
    _, params = net.split(encoders.abstract(spec))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      assert all(isinstance(k.key, str) for k in path)
      assert leaf.dtype == jnp.float32


def test_the_same_key_drops_the_same_and_another_key_drops_otherwise():
  ours, params, batch = small()
  call = jax.jit(lambda key: ours(params, batch, key).logits)
  one, again, other = call(jax.random.key(1)), call(jax.random.key(1)), call(jax.random.key(2))
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).max() > 1e-3
  calm = jax.jit(lambda: ours(params, batch).logits)
  still = [calm(), calm()]
  np.testing.assert_array_equal(*still)
  assert np.abs(still[0] - one).max() > 1e-3


def test_no_two_dropouts_share_a_mask(monkeypatch):
  """All keys that reach a dropout in one call differ: by layer and by place."""
  seen = []
  real = bert.drop

  def spy(x, rate, key):
    if rate:
      seen.append(jax.random.key_data(key))
    return real(x, rate, key)

  def keys(params, batch, key):
    seen.clear()
    ours(params, batch, key)
    return list(seen)

  monkeypatch.setattr(bert, 'drop', spy)
  # Embeddings; attention, mix, feed-forward per layer (no mix in DistilBERT; relative positions
  # in DeBERTa); the head.
  rates = ('embedding_dropout', 'attention_dropout', 'mlp_dropout', 'classifier_dropout')
  for family, n, changes in (
    ('bert', 1 + 2 * 3 + 1, {}),
    ('distilbert', 1 + 2 * 2 + 1, {}),
    ('electra', 9, {}),
    ('modernbert', 1 + 2 * 3 + 1, dict.fromkeys(rates, 0.1)),
    ('deberta-v2', 1 + 2 * 4 + 2, dict(pooler_dropout=0.1)),
  ):
    ours, params, batch = small(family, **changes)
    found = {tuple(k.tolist()) for k in jax.jit(keys)(params, batch, jax.random.key(0))}
    assert len(seen) == len(found) == n


def test_dropout_keeps_the_mean_and_drops_its_rate():
  x = jnp.ones((400, 400))
  y = bert.drop(x, 0.25, jax.random.key(model_zoo.fresh_seed()))
  np.testing.assert_allclose((y == 0).mean(), 0.25, atol=0.01)
  np.testing.assert_allclose(y.mean(), 1, atol=0.02)
  np.testing.assert_allclose(y.max(), 1 / 0.75, rtol=1e-6)


@pytest.mark.parametrize('head', families.HEADS)
def test_bfloat16_is_finite_and_near_float32(head):
  full, params, batch = small('electra', head)
  half, _, _ = small('electra', head, 'bfloat16')
  want, got = (jax.jit(lambda p, n=n: n(p, batch))(params) for n in (full, half))
  assert got.logits.dtype == jnp.float32 and got.hidden.dtype == jnp.bfloat16
  mask = batch['mask']
  for a, b in ((want.logits, got.logits), (want.hidden[-1], got.hidden[-1])):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    a, b = (x[mask] if x.ndim == 3 else x for x in (a, b))
    assert np.isfinite(b).all()
    assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
  if head == 'mlm':
    return
  gradient = jax.jit(jax.grad(lambda p: half(p, batch, jax.random.key(0)).logits.mean()))(params)
  assert all(g.dtype == jnp.float32 and np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_rematerialised_layers_have_the_same_gradients_and_keep_less():
  # The CPU's compiler drops what holds the two computations apart, early: not here.
  apart = dict(xla_disable_hlo_passes='cse_barrier_expander')
  grads, kept, key = {}, {}, jax.random.key(model_zoo.fresh_seed())
  conf = model_zoo.config('bert')
  batch = model_zoo.inputs(conf, model_zoo.fresh_seed())
  for remat in families.REMAT:
    ours, params = net.split(hf.build(conf, seed=1, remat=remat))
    loss = lambda p, ours=ours: jnp.square(ours(p, batch, key).logits).sum()  # noqa: E731
    program = jax.jit(jax.grad(loss)).lower(params).compile(compiler_options=apart)
    grads[remat] = program(params)
    kept[remat] = program.as_text().count(' exponential(')
  assert kept['full'] == kept['dots'] == 2 * kept['none'] > 0
  # Of what has no gradient (a key's bias), rounding is left: small beside the largest.
  largest = max(np.abs(g).max() for g in jax.tree.leaves(grads['none']))
  for remat in ('dots', 'full'):
    for a, b in zip(*map(jax.tree.leaves, (grads[remat], grads['none'])), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize('attention', ['einsum', 'xla'])
@pytest.mark.parametrize('dtype', families.DTYPES)
def test_rows_without_a_single_token_stay_finite(attention, dtype):
  ours, params, batch = small('roberta', dtype=dtype, attention=attention)
  batch['mask'] = batch['mask'] & (np.arange(len(batch['mask'])) != 1)[:, None]
  # JAX's own function promotes bfloat16 with float32.
  with jax.numpy_dtype_promotion('standard' if attention == 'xla' else 'strict'):
    score = jax.jit(jax.value_and_grad(lambda p: ours(p, batch).logits.sum()))
    value, gradient = score(params)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize('family', ['bert', 'roberta'])
def test_padding_changes_nothing(family):
  ours, params, batch = small(family, initializer_range=0.1)
  alone = {k: v[1:2, : batch['mask'][1].sum()] for k, v in batch.items()}
  call = jax.jit(lambda b: ours(params, b).logits)
  np.testing.assert_allclose(call(batch)[1:2], call(alone), atol=1e-5)


def test_a_sequence_longer_than_the_positions_is_refused():
  """RoBERTa's table has pad_id + 1 rows that number no token."""
  for family, longest in (('bert', 24), ('roberta', 22)):
    conf = model_zoo.config(family)
    ours, params = net.split(encoders.abstract(families.spec(conf)))
    jax.eval_shape(ours.__call__, params, model_zoo.inputs(conf, length=longest))
    with pytest.raises(ValueError, match=f'length {longest + 1} exceeds {longest}'):
      jax.eval_shape(ours.__call__, params, model_zoo.inputs(conf, length=longest + 1))


def test_decode_of_gathered_positions_is_a_part_of_the_logits():
  conf = model_zoo.config('electra')
  module = hf.build(conf, head='mlm')
  batch = model_zoo.inputs(conf)
  ours, params = net.split(module)
  out = jax.jit(lambda p: ours(p, batch))(params)
  np.testing.assert_allclose(module.decode(out.hidden[-1][:, 2]), out.logits[:, 2], atol=1e-6)
  with pytest.raises(ValueError, match='masked-LM head'):
    hf.build(conf).decode(out.hidden[-1])


def test_a_mixture_of_tokens_is_the_mixture_of_their_embeddings():
  ours, params, _ = small('electra')
  probs = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, model_zoo.VOCAB)))
  want = np.asarray(probs) @ np.asarray(ours.table(params))
  np.testing.assert_allclose(ours.embed(params, probs), want, atol=1e-6)


def test_an_abstract_encoder_filled_with_parameters_is_the_encoder():
  ours, params, batch = small()
  spec = families.spec(model_zoo.config('bert'))
  filled, again = net.split(net.fill(encoders.abstract(spec), params))
  one, two = (jax.jit(lambda p, n=n: n(p, batch).logits) for n in (ours, filled))
  np.testing.assert_array_equal(one(params), two(again))


def test_initial_weights_have_the_family_s_spread():
  _, params, _ = small(initializer_range=0.05, vocab_size=400)
  np.testing.assert_allclose(params['embeddings']['word']['table'].std(), 0.05, rtol=0.05)
  assert not params['layers']['0']['up']['bias'].any()
  assert (params['layers']['0']['norm']['scale'] == 1).all()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(hidden_act='mish'), "'mish' is not supported"),
    (dict(num_attention_heads=5), '32 is not divisible by 5'),
    (dict(is_decoder=True), 'decoder'),
  ],
)
def test_what_is_not_supported_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    hf.build(model_zoo.config('bert', **change))


@pytest.mark.parametrize(
  'option',
  [dict(head='tagging'), dict(dtype='float16'), dict(attention='flash'), dict(remat='all')],
)
def test_options_are_checked(option):
  (value,) = option.values()
  with pytest.raises(ValueError, match=value):
    hf.build(model_zoo.config('bert'), **option)
  with pytest.raises(ValueError, match='bfloat16'):
    hf.build(model_zoo.config('bert'), attention='cudnn')


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_dropout_rates_come_from_the_config(family):
  """Some name them otherwise; DistilBERT drops nothing after the attention's projection."""
  names = {
    'distilbert': ('dropout', 'attention_dropout', 'seq_classif_dropout'),
    'albert': ('hidden_dropout_prob', 'attention_probs_dropout_prob', 'classifier_dropout_prob'),
    'modernbert': ('embedding_dropout', 'attention_dropout', 'classifier_dropout'),
    'deberta-v2': ('hidden_dropout_prob', 'attention_probs_dropout_prob', 'cls_dropout'),
  }.get(family, ('hidden_dropout_prob', 'attention_probs_dropout_prob', 'classifier_dropout'))
  spec = families.spec(model_zoo.config(family, **dict(zip(names, (0.2, 0.3, 0.4), strict=True))))
  assert (spec.dropout, spec.attention_dropout, spec.head_dropout) == (0.2, 0.3, 0.4)
  assert spec.mix_dropout == dict(distilbert=0.0, modernbert=0.3).get(family, 0.2)
  drops_input = family in ('roberta', 'xlm-roberta', 'electra')
  assert spec.head_input_dropout == (0.4 if drops_input else 0.0)
  if family not in ('distilbert', 'albert', 'modernbert'):
    none = families.spec(model_zoo.config(family, hidden_dropout_prob=0.25))
    assert none.head_dropout == 0.25
