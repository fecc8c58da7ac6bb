"""ModernBERT: what it alone has, against PyTorch; what is refused; students of it."""

import json

import jax
import model_zoo
import numpy as np
import pytest
import torch_pair

from kdjax import net
from kdjax.models import families, hf, students

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')
EVERY = dict(
  norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
  classifier_pooling='mean', classifier_activation='silu', hidden_activation='gelu_pytorch_tanh',
)  # fmt: skip


def three(**changes):
  """Far, near, far; of 23 tokens the near layer sees 9."""
  sizes = dict(num_hidden_layers=3, global_attn_every_n_layers=2, local_attention=8)
  return model_zoo.config('modernbert', **(sizes | changes))


@pytest.mark.parametrize(
  'head, changes, knobs', [('classify', EVERY, dict(attention='xla')), ('mlm', {}, {})]
)
def test_far_and_near_layers_are_torch_s_with_every_gradient(rng, tmp_path, head, changes, knobs):
  pytest.importorskip('torch')
  thetas = dict(
    full_attention=dict(rope_type='default', rope_theta=500.0),
    sliding_attention=dict(rope_type='default', rope_theta=20.0),
  )
  conf = three(rope_parameters=thetas, **changes)
  torch_pair.compare(conf, rng, tmp_path, head, length=23, **knobs)


def test_a_file_of_before_transformers_5_means_the_same(tmp_path):
  three().save_pretrained(tmp_path)
  said = json.loads((tmp_path / 'config.json').read_text())
  for name in ('layer_types', 'rope_parameters'):
    del said[name]
  said |= dict(global_attn_every_n_layers=1, global_rope_theta=700.0, local_rope_theta=30.0)
  (tmp_path / 'config.json').write_text(json.dumps(said))
  own = families.spec(hf._config(tmp_path)).own
  assert own.everywhere == (True, True, True)
  assert (own.theta, own.near_theta, own.window) == (700.0, 30.0, 4)


def test_bfloat16_is_near_float32(rng):
  conf = three(initializer_range=0.1)
  batch = model_zoo.inputs(conf, int(rng.integers(2**31)), length=23)
  full, half = (net.split(hf.build(conf, seed=1, dtype=d)) for d in ('float32', 'bfloat16'))
  want, got = (jax.jit(n.__call__)(p, batch) for n, p in (full, half))
  assert got.logits.dtype == np.float32 and got.hidden.dtype == jax.numpy.bfloat16
  a, b = (np.asarray(x.hidden, np.float32)[:, batch['mask']] for x in (want, got))
  assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
  assert np.abs(want.logits - got.logits).max() < 0.1 * max(1, np.abs(want.logits).max())


def test_a_student_keeps_what_its_layers_attend_to_and_torch_reads_it(rng, tmp_path):
  """The first block has no norm before attention, wherever it came from."""
  torch = pytest.importorskip('torch')
  import transformers

  conf = three(norm_bias=True)
  model = model_zoo.torch_model(conf, 'classify', int(rng.integers(2**31)))
  model.save_pretrained(tmp_path / 'teacher')
  module, read, _ = hf.load(tmp_path / 'teacher')
  student, small = students.cut(module, read, (1, 2, 0))
  assert small.layer_types == ['sliding_attention', 'full_attention', 'full_attention']
  assert not hasattr(student.layers['0'], 'mix_norm')
  kept, new = student.layers['1'].mix_norm, student.layers['2'].mix_norm
  np.testing.assert_array_equal(kept.scale[...], module.layers['2'].mix_norm.scale[...])
  assert (new.scale[...] == 1).all() and not new.bias[...].any()
  hf.save(tmp_path / 'student', student, small)
  kind = transformers.AutoModelForSequenceClassification
  theirs, report = kind.from_pretrained(tmp_path / 'student', output_loading_info=True)
  assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  batch = model_zoo.inputs(conf, int(rng.integers(2**31)), length=17)
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  with torch.no_grad():
    want = theirs.eval()(input_ids=ids, **model_zoo.torch_inputs(conf, batch)).logits.numpy()
  ours, params = net.split(student)
  got = jax.jit(lambda p: ours(p, batch).logits)(params)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_random_student_of_more_layers_goes_on_in_the_same_order():
  _, small = students.random(three(), layers=6)
  assert [kind[0] for kind in small.layer_types] == list('fsffsf')
  assert len(students.random(three(), layers=2)[1].layer_types) == 2


def test_the_head_of_pretraining_is_kept_by_a_classifier(tmp_path):
  """As transformers does: dense and norm are the masked-LM head's, the last projection is new."""
  conf = three()
  hf.save(tmp_path, hf.build(conf, head='mlm', seed=3), conf)
  got = hf.read(tmp_path, 4)
  assert got.fresh == ('head/out/bias', 'head/out/kernel')
  want = hf.load(tmp_path, head='mlm')[0].head.dense.kernel[...]
  np.testing.assert_array_equal(got.module.head.dense.kernel[...], want)


def _rope(**changes):
  plain = dict(rope_type='default', rope_theta=100.0)
  return dict(full_attention=plain | changes, sliding_attention=plain)


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('classifier_pooling', 'max', r"classifier_pooling 'max' .* \['cls', 'mean'\]"),
    ('layer_types', ['full_attention'] * 2, 'layer_types .* one for each of 3 layers'),
    ('layer_types', ['chunked_attention'] * 3, "layer_types 'chunked_attention' is not supported"),
    ('local_attention', 0, 'local_attention is 0; it must be an integer from 1'),
    ('norm_bias', 'yes', "norm_bias 'yes' is not supported"),
    ('hidden_activation', 'mish', "'mish' is not supported"),
    ('mlp_dropout', 1.5, 'mlp_dropout is 1.5'),
    ('num_attention_heads', 32, 'num_attention_heads is 32; .* even width, and hidden_size is 32'),
    ('rope_parameters', _rope(rope_type='yarn'), r"full_attention.rope_type 'yarn' is not"),
    ('rope_parameters', _rope(partial_rotary_factor=0.5), 'partial_rotary_factor 0.5 is not'),
    ('rope_parameters', _rope(rope_theta=-1.0), r'full_attention.rope_theta is -1.0'),
    ('rope_parameters', None, 'rope_parameters None has none of full_attention'),
    ('is_decoder', True, 'as a decoder'),
  ],
)
def test_what_is_not_supported_is_refused_by_key_and_value(key, value, message):
  conf = three()
  object.__setattr__(conf, key, value)  # past the checks of transformers' own
  with pytest.raises(ValueError, match=message) as error:
    hf.build(conf)
  assert '\n' not in str(error.value)


def test_a_masked_lm_head_without_its_bias_or_tie_is_refused():
  for key in ('decoder_bias', 'tie_word_embeddings'):
    with pytest.raises(ValueError, match=f'{key}.*False'):
      hf.build(three(**{key: False}), head='mlm')
  hf.build(three(decoder_bias=False))
