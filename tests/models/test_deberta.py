"""DeBERTa: relative positions, against PyTorch; what is refused."""

import jax
import model_zoo
import numpy as np
import pytest
import safetensors.numpy
import torch_pair

from kdjax import net
from kdjax.models import deberta, families, hf, weights

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')
# As v3; and what v3 does not use.
VARIANTS = [
  ('classify', {}, dict(attention='xla')),
  (
    'classify',
    dict(
      share_att_key=False, norm_rel_ebd='none', position_buckets=-1, max_relative_positions=5,
      position_biased_input=True, type_vocab_size=2, pooler_hidden_act='tanh',
    ),
    {},
  ),
  ('mlm', dict(pos_att_type=['p2c'], share_att_key=False, max_relative_positions=7), {}),
]  # fmt: skip


@pytest.mark.parametrize('head, changes, knobs', VARIANTS)
def test_relative_positions_are_torch_s_with_every_gradient(rng, tmp_path, head, changes, knobs):
  pytest.importorskip('torch')
  conf = model_zoo.config('deberta-v2', **changes)
  torch_pair.compare(conf, rng, tmp_path, head, length=19, **knobs)


@pytest.mark.parametrize('buckets, farthest', [(256, 512), (32, 100), (8, 24), (0, 30)])
def test_each_distance_has_the_row_that_torch_gives_it(buckets, farthest):
  torch = pytest.importorskip('torch')
  from transformers.models.deberta_v2 import modeling_deberta_v2 as theirs

  conf = model_zoo.config(
    'deberta-v2', position_buckets=buckets or -1, max_relative_positions=farthest
  )
  own = families.spec(conf).own
  for length in (1, 2, 700):
    x = torch.zeros(1, length, 1)
    want = theirs.build_relative_position(x, x, buckets or -1, farthest)[0].numpy() + own.span
    want = np.clip(want, 0, 2 * own.span - 1)
    # The distance of query i and key j, i - j, is counted from -(length - 1).
    at = np.arange(length)[:, None] - np.arange(length) + length - 1
    np.testing.assert_array_equal(deberta.rows(own, length)[at], want)


def test_skew_reads_each_row_from_its_own_place(rng):
  for L in (1, 2, 5):
    x = rng.normal(size=(2, L, 2 * L - 1)).astype(np.float32)
    want = [[[x[b, i, j - i + L - 1] for j in range(L)] for i in range(L)] for b in range(2)]
    np.testing.assert_array_equal(deberta.skew(jax.numpy.asarray(x)), np.array(want))


def test_bfloat16_is_near_float32(rng):
  conf = model_zoo.config('deberta-v2', initializer_range=0.1)
  batch = model_zoo.inputs(conf, int(rng.integers(2**31)))
  pairs = [net.split(hf.build(conf, head='mlm', seed=1, dtype=d)) for d in families.DTYPES]
  want, got = (jax.jit(n.__call__)(p, batch) for n, p in pairs)
  assert got.logits.dtype == np.float32 and got.hidden.dtype == jax.numpy.bfloat16
  for a, b in ((want.hidden[-1], got.hidden[-1]), (want.logits, got.logits)):
    a, b = (np.asarray(x, np.float32)[batch['mask']] for x in (a, b))
    assert np.abs(a - b).max() < 0.1 * max(1, np.abs(a).max())


def test_what_published_checkpoints_have_besides_is_left_out(tmp_path):
  conf = model_zoo.config('deberta-v2')
  module = hf.build(conf)
  hf.save(tmp_path, module, conf)
  tensors = safetensors.numpy.load_file(tmp_path / weights.FILE)
  extra = dict.fromkeys(
    ('deberta.embeddings.position_embeddings.weight', 'lm_predictions.lm_head.bias',
     'mask_predictions.dense.weight'), np.zeros((3, 2), np.float32),
  )  # fmt: skip
  safetensors.numpy.save_file(tensors | extra, tmp_path / weights.FILE)
  assert hf.read(tmp_path).fresh == ()
  safetensors.numpy.save_file(
    tensors | {'deberta.encoder.conv.conv.weight': extra['mask_predictions.dense.weight']},
    tmp_path / weights.FILE,
  )
  with pytest.raises(ValueError, match=r'1 unexpected: deberta\.encoder\.conv'):
    hf.load(tmp_path)


@pytest.mark.parametrize(
  'key, value, message',
  [
    ('conv_kernel_size', 3, 'conv_kernel_size 3 is not supported; only 0'),
    ('relative_attention', False, 'relative_attention False is not supported'),
    ('pos_att_type', ['p2p', 'c2p'], r"pos_att_type \['p2p', 'c2p'\] is not .* c2p, p2c or both"),
    ('pos_att_type', None, 'pos_att_type None is not'),
    ('norm_rel_ebd', 'batch_norm', "norm_rel_ebd 'batch_norm' is not"),
    ('share_att_key', 1, 'share_att_key 1 is not'),
    ('position_biased_input', None, 'position_biased_input None is not'),
    ('attention_head_size', 16, r'attention_head_size 16 is not .* \[8\]'),
    ('embedding_size', 16, 'embedding_size 16 is not supported; only hidden_size, 32'),
    ('pooler_hidden_size', 16, 'pooler_hidden_size 16 is not supported; only hidden_size, 32'),
    ('pooler_hidden_act', 'mish', "'mish' is not supported"),
    ('pooler_dropout', -1.0, 'pooler_dropout is -1.0'),
    ('position_buckets', 1, 'position_buckets 1 of max_relative_positions 24'),
    ('position_buckets', 60, 'position_buckets 60 of max_relative_positions 24'),
    ('position_buckets', 'x', "position_buckets is 'x'"),
    ('max_relative_positions', 1 << 20, 'max_relative_positions is 1048576'),
    ('is_decoder', True, 'as a decoder'),
  ],
)
def test_what_is_not_supported_is_refused_by_key_and_value(key, value, message):
  conf = model_zoo.config('deberta-v2')
  object.__setattr__(conf, key, value)  # past the checks of transformers' own
  with pytest.raises(ValueError, match=message) as error:
    hf.build(conf)
  assert '\n' not in str(error.value)


def test_heads_and_attention_that_are_not_here_are_refused():
  with pytest.raises(ValueError, match='legacy False is not supported'):
    hf.build(model_zoo.config('deberta-v2', legacy=False), head='mlm')
  with pytest.raises(ValueError, match="'cudnn' is not supported with DeBERTa's relative"):
    hf.build(model_zoo.config('deberta-v2'), attention='cudnn', dtype='bfloat16')
