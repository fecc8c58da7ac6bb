"""Models of images: against NumPy, gradients against differences, folders that read back."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from kdjax import net
from kdjax.methods import layers
from kdjax.models import hf, vision, vision_files, weights

WORDS = ['mlp:7', 'mlp:12,5', 'resnet:4', 'resnet:4,4,6']


def made(rng, word, shape=(5, 6, 3), labels=4, dtype='float32'):
  """(net, parameters, config) biases and scales random: nothing hides behind 0 or 1."""
  config = vision_files.config(word, shape, [f'c{i}' for i in range(labels)])
  config.mean, config.std = ((*rng.uniform(0.2, 0.8, shape[-1]),) for _ in range(2))
  module = vision_files.build(config, jax.random.key(int(rng.integers(1 << 30))), dtype)
  cut, params = net.split(module)
  params = jax.tree.map(
    lambda x: x + jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32), params
  )
  return cut, params, config


def pixels(rng, shape=(5, 6, 3), rows=3):
  return rng.random((rows, shape[0] * shape[1], shape[2])).astype(np.float32)


def run(cut, params, e):
  return jax.jit(lambda params, e: cut.encode(params, e, None, None))(params, jnp.asarray(e))


def conv(x, kernel, stride):
  """'SAME', by hand: what is odd of the padding goes below and to the right."""
  (B, H, W, _), (size, _, _, outs) = x.shape, kernel.shape
  rows, columns = -(-H // stride), -(-W // stride)
  around = [max((n - 1) * stride + size - m, 0) for n, m in ((rows, H), (columns, W))]
  x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in around), (0, 0)])
  y = np.zeros((B, rows, columns, outs))
  for i in range(rows):
    for j in range(columns):
      window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
      y[:, i, j] = np.einsum('bhwc,hwco->bo', window, kernel)
  return y


def norm(x, p):
  D = x.shape[-1]
  size = np.gcd(D, 8)
  y = np.empty_like(x)
  for start in range(0, D, size):
    group = x[..., start : start + size]
    axes = (1, 2, 3)
    centred = group - group.mean(axes, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axes, keepdims=True) + 1e-5)
    y[..., start : start + size] = centred / spread
  return y * p['scale'] + p['bias']


def reference(config, params, e):
  """(logits, hidden vectors) in float64, from the description of the model."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  kind, widths = vision.architecture(config.architecture)
  x = (np.asarray(e, np.float64) - config.mean) / config.std
  hidden, relu = [x.mean(1)], lambda v: np.maximum(v, 0)
  if kind == 'mlp':
    x = x.reshape(len(e), -1)
    for l in range(len(widths)):
      x = relu(x @ p['blocks'][str(l)]['kernel'] + p['blocks'][str(l)]['bias'])
      hidden.append(x)
  else:
    x = relu(norm(conv(x.reshape(len(e), *config.shape), p['stem']['kernel'], 1), p['stem_norm']))
    for l in range(len(widths)):
      b = p['blocks'][str(l)]
      stride = 2 if 'short' in b else 1
      y = relu(norm(conv(x, b['first']['kernel'], stride), b['first_norm']))
      y = norm(conv(y, b['second']['kernel'], 1), b['second_norm'])
      if stride == 2:
        x = norm(conv(x, b['short']['kernel'], 2), b['short_norm'])
      x = relu(x + y)
      hidden.append(x.mean((1, 2)))
  return hidden[-1] @ p['out']['kernel'] + p['out']['bias'], hidden


@pytest.mark.parametrize('word', WORDS)
def test_logits_and_hidden_vectors_are_the_formula_s(rng, word):
  cut, params, config = made(rng, word)
  e = pixels(rng)
  out = run(cut, params, e)
  logits, hidden = reference(config, params, e)
  np.testing.assert_allclose(out.logits, logits, rtol=1e-3, atol=1e-4)
  blocks = vision.architecture(word)[1]
  assert out.hidden.shape == (len(blocks) + 1, 3, 1, max(*blocks, 3))
  for got, want in zip(out.hidden[:, :, 0], hidden, strict=True):
    D = want.shape[1]
    np.testing.assert_allclose(got[:, :D], want, rtol=1e-3, atol=1e-4)
    assert not got[:, D:].any()


@pytest.mark.parametrize('word', WORDS)
def test_gradients_are_those_of_differences(rng, word):
  cut, params, config = made(rng, word)
  e, weight = pixels(rng), rng.standard_normal((3, 4))

  def total(params, e):
    return (cut.encode(params, e, None, None).logits * jnp.asarray(weight, jnp.float32)).sum()

  slopes = jax.device_get(jax.jit(jax.grad(total, (0, 1)))(params, jnp.asarray(e)))
  ways = jax.tree.map(lambda x: rng.standard_normal(x.shape), (params, e))
  want = []
  for step in (1e-6, -1e-6):  # of the float64 formula: float32 differences would be noise
    there = jax.tree.map(lambda x, v, s=step: np.asarray(x, np.float64) + s * v, (params, e), ways)
    want.append((reference(config, *there)[0] * weight).sum())
  got = sum(map(np.vdot, jax.tree.leaves(slopes), jax.tree.leaves(ways)))
  np.testing.assert_allclose(got, (want[0] - want[1]) / 2e-6, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('word', WORDS)
def test_examples_are_independent_and_bfloat16_is_near(rng, word):
  cut, params, config = made(rng, word)
  e = pixels(rng, rows=4)
  whole = run(cut, params, e).logits
  np.testing.assert_allclose(run(cut, params, e[2:3]).logits, whole[2:3], rtol=1e-3, atol=1e-4)
  low, _ = net.split(vision_files.build(config, jax.random.key(0), 'bfloat16'))
  out = run(low, params, e)
  assert out.logits.dtype == np.float32 and out.hidden.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.logits, whole, atol=0.1 * np.abs(whole).max())


def test_a_model_says_what_it_reads_and_both_pools_give_its_vector(rng):
  cut, params, _ = made(rng, 'resnet:4,6')
  assert cut.row.shape == (30, 3)
  assert layers.sizes(cut, params) == (2, 6)
  out = run(cut, params, pixels(rng))
  batch = dict(mask=jnp.ones((3, 30), bool))
  for pool in layers.POOLS:
    with jax.numpy_dtype_promotion('standard'):  # of methods it is
      states = layers.states(cut, batch, out.hidden, pool)
    np.testing.assert_allclose(states, out.hidden[:, :, 0], rtol=1e-5, atol=1e-6)


def test_an_image_is_its_own_embedding_and_has_no_words(rng):
  cut, params, _ = made(rng, 'mlp:7')
  e = pixels(rng)
  np.testing.assert_array_equal(cut.embed(params, jnp.asarray(e)), e)
  for call in (lambda: cut.table(params), lambda: cut.decode(params, jnp.zeros((2, 7)))):
    with pytest.raises(ValueError, match='model of images has no'):
      call()
  with pytest.raises(ValueError, match=r'\(29, 3\).*\(5, 6, 3\)'):
    run(cut, params, e[:, 1:])


@pytest.mark.parametrize('word', WORDS)
def test_modules_hold_parameters_alone(rng, word):
  module = vision_files.build(vision_files.config(word, (5, 6, 3), 'ab'), jax.random.key(0))
  _, state, rest = nnx.split(module, nnx.Param, ...)
  assert jax.tree.leaves(state) and not jax.tree.leaves(rest)


BAD = [
  '',
  'mlp',
  'mlp:',
  'mlp:0',
  'mlp:a',
  'mlp:-3',
  'cnn:3',
  'mlp:1,,2',
  'mlp:99999999',
  'minilm',
  'mlp:' + '9' * 5000,
]


@pytest.mark.parametrize('word', BAD)
def test_a_word_that_names_no_model_is_refused_with_one_that_does(word):
  with pytest.raises(ValueError, match='mlp:256,256'):
    vision.architecture(word)


# Folders.


@pytest.mark.parametrize('word', WORDS)
def test_a_saved_model_reads_back_bit_for_bit(rng, tmp_path, word):
  cut, params, config = made(rng, word)
  module = net.fill(vision_files.build(config, jax.random.key(0)), params)
  names = [f'class {i}' for i in rng.permutation(4)]
  where = vision_files.save(tmp_path / 'm', module, config, labels=names, card='about')
  assert vision_files.holds(where) and (where / 'README.md').read_text() == 'about'
  module, found = vision_files.load(where)
  assert list(found.id2label.values()) == names
  assert found.spec() == config.spec()
  again, read = net.split(module)
  assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), params, read))
  e = pixels(rng)
  np.testing.assert_array_equal(run(cut, params, e).logits, run(again, read, e).logits)


def test_a_save_replaces_the_model_whole_and_keeps_what_is_not_its_own(rng, tmp_path):
  _, _, config = made(rng, 'mlp:7')
  for seed in (0, 1):
    module = vision_files.build(config, jax.random.key(seed))
    vision_files.save(tmp_path / 'm', module, config)
    (tmp_path / 'm' / 'notes.txt').write_text('mine')
  equal = jax.tree.map(
    lambda a, b: np.array_equal(a, b),
    *(net.split(m)[1] for m in (module, vision_files.load(tmp_path / 'm')[0])),
  )
  assert jax.tree.all(equal)
  assert sorted(p.name for p in (tmp_path / 'm').iterdir()) == [
    'config.json', 'model.safetensors', 'notes.txt'
  ]  # fmt: skip
  assert [p.name for p in tmp_path.iterdir()] == ['m']


def test_what_does_not_belong_together_is_not_saved(rng, tmp_path):
  _, _, config = made(rng, 'mlp:7')
  module = vision_files.build(config, jax.random.key(0))
  other = vision_files.config('mlp:8', (5, 6, 3), 'abcd')
  for args in ((other, None), (config, ['one'])):
    with pytest.raises(ValueError, match='disagree'):
      vision_files.save(tmp_path / 'm', module, args[0], labels=args[1])
  assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(rng, tmp_path):
  _, _, config = made(rng, 'mlp:7')
  return vision_files.save(tmp_path / 'm', vision_files.build(config, jax.random.key(0)), config)


WRONG = dict(
  architecture=['mlp:8', 'mlp', 3, None],
  shape=[[5, 6], [5, 6, 0], 'abc', [5, 6, 4], [1 << 20, 6, 3], None, 5],
  num_labels=[5, 'x', None, -1, 1 << 40],
  mean=[[0.5], ['a', 'b', 'c'], [float('nan')] * 3],
  std=[[0.0] * 3, [1.0], None],
  id2label=[{}, {'0': 'a'}, {'a': 'b'}, {'1': 'a', '2': 'b', '3': 'c', '4': 'd'}, None],
  problem_type=[['a'], 3],
  extra=[1],
)


@pytest.mark.parametrize('field, value', [(k, v) for k, vs in WRONG.items() for v in vs], ids=str)
def test_a_config_that_is_wrong_is_named(folder, field, value):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
  with pytest.raises(ValueError, match=r'config\.json|model\.safetensors'):
    vision_files.load(folder)


def test_damaged_files_are_named(rng, folder):
  for name in ('config.json', weights.FILE):
    whole = (folder / name).read_bytes()
    cuts = [0, 1, *rng.integers(2, len(whole) - 1, 12)]
    for cut in cuts:
      (folder / name).write_bytes(whole[:cut])
      with pytest.raises(ValueError, match=name):
        vision_files.load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
      vision_files.load(folder)
    (folder / name).write_bytes(whole)
  vision_files.load(folder)


def test_weights_of_another_shape_or_name_are_listed(folder):
  path = folder / weights.FILE
  whole = safetensors.numpy.load_file(path)
  for change, said in (
    ({'out.bias': np.zeros(9, np.float32)}, r'out.bias.: \(9,\), expected \(4,\)'),
    ({'more': np.zeros(1, np.float32)}, r'more.: \(1,\), expected None'),
  ):
    safetensors.numpy.save_file(whole | change, path)
    with pytest.raises(ValueError, match=said):
      vision_files.load(folder)


def test_other_folders_hold_no_model_of_images(tmp_path, folder):
  assert not vision_files.holds(tmp_path) and not vision_files.holds('mlp:7')
  (folder / 'config.json').write_text('{"model_type": "bert"}')
  assert not vision_files.holds(folder)
  shutil.rmtree(folder)
  assert not vision_files.holds(folder)


def test_the_text_reader_says_what_it_does_not_read(folder):
  with pytest.raises(ValueError, match='kdjax_image'):
    hf.read(folder)
