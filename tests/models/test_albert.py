"""ALBERT: one block for all layers, against PyTorch; what is refused; students of it."""

import jax
import model_zoo
import numpy as np
import pytest
import torch_pair

from kdjax import net
from kdjax.models import families, hf, students

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


@pytest.mark.parametrize('head', families.HEADS)
def test_a_block_that_is_used_three_times_has_torch_s_gradients(rng, tmp_path, head):
  pytest.importorskip('torch')
  conf = model_zoo.config('albert', num_hidden_layers=3)
  torch_pair.compare(conf, rng, tmp_path, head, tolerance=1e-5)


def test_a_student_uses_the_block_less_often_and_torch_reads_it(rng, tmp_path):
  torch = pytest.importorskip('torch')
  import transformers

  conf = model_zoo.config('albert', num_hidden_layers=4)
  model_zoo.torch_model(conf, 'classify', int(rng.integers(2**31))).save_pretrained(tmp_path / 't')
  module, read, _ = hf.load(tmp_path / 't')
  student, small = students.cut(module, read, 2)
  assert small.num_hidden_layers == student.spec.layers == 2
  hf.save(tmp_path / 'student', student, small)
  kind = transformers.AutoModelForSequenceClassification
  theirs, report = kind.from_pretrained(tmp_path / 'student', output_loading_info=True)
  assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
  batch = model_zoo.inputs(conf, int(rng.integers(2**31)))
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  with torch.no_grad():
    want = theirs.eval()(input_ids=ids, **model_zoo.torch_inputs(conf, batch)).logits.numpy()
  (ours, params), (whole, all_of) = net.split(student), net.split(hf.load(tmp_path / 't')[0])
  got = jax.jit(lambda p: ours(p, batch))(params)
  np.testing.assert_allclose(got.logits, want, rtol=1e-5, atol=1e-5)
  teacher = jax.jit(lambda p: whole(p, batch))(all_of)
  np.testing.assert_allclose(got.hidden, teacher.hidden[:3], rtol=1e-6, atol=1e-6)
  params['layers']['0']['up']['kernel'].delete()  # a copy: the teacher keeps its own
  jax.block_until_ready(jax.jit(lambda p: whole(p, batch).logits)(all_of))


def test_the_head_of_pretraining_and_its_pooler(tmp_path):
  conf = model_zoo.config('albert')
  hf.save(tmp_path, hf.build(conf, head='mlm', seed=3), conf)
  got = hf.read(tmp_path, 4)
  assert all(path.startswith('head/') for path in got.fresh) and len(got.fresh) == 4
  with pytest.raises(ValueError, match='embedding_size is 20, and so is hidden_size'):
    students.random(model_zoo.config('albert', num_attention_heads=4), width=20)


@pytest.mark.parametrize('key', ['num_hidden_groups', 'inner_group_num'])
def test_more_than_one_block_is_refused(key):
  with pytest.raises(ValueError, match=f'{key} 2 is not supported'):
    families.spec(model_zoo.config('albert', **{key: 2}))
