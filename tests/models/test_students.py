"""Students cut from a teacher, and random ones."""

import jax
import model_zoo
import numpy as np
import pytest

from kdjax import net
from kdjax.models import hf, students


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_a_cut_student_is_the_torch_teacher_without_the_other_layers(tmp_path, family):
  torch = pytest.importorskip('torch')
  seed = model_zoo.fresh_seed()
  depth = {'n_layers' if family == 'distilbert' else 'num_hidden_layers': 4}
  conf = model_zoo.config(family, **depth)
  model = model_zoo.torch_model(conf, 'classify', seed)
  model.save_pretrained(tmp_path / 'teacher')
  module, read, _ = hf.load(tmp_path / 'teacher')
  student, small = students.cut(module, read, (0, 3))
  assert read.num_hidden_layers == 4 and small.num_hidden_layers == 2

  base = getattr(model, model.base_model_prefix)
  stack, name = {
    'distilbert': lambda: (base.transformer, 'layer'),
    'modernbert': lambda: (base, 'layers'),
  }.get(family, lambda: (base.encoder, 'layer'))()
  if family == 'albert':  # whichever they are, they are one
    stack.config.num_hidden_layers = 2
  else:
    layers = getattr(stack, name)
    setattr(stack, name, torch.nn.ModuleList([layers[0], layers[3]]))
  batch = model_zoo.inputs(conf, seed)
  ids = torch.tensor(batch['tokens'].astype(np.int64))
  with torch.no_grad():
    want = model(input_ids=ids, **model_zoo.torch_inputs(conf, batch)).logits.numpy()
  ours, params = net.split(student)
  call = jax.jit(lambda p: ours(p, batch).logits)
  np.testing.assert_allclose(call(params), want, rtol=1e-5, atol=1e-5)
  hf.save(tmp_path / 'student', student, small)
  _, again = net.split(hf.load(tmp_path / 'student')[0])
  np.testing.assert_array_equal(call(again), call(params))


def test_layers_are_picked_as_said():
  assert students.choose(12, 6) == (0, 2, 4, 7, 9, 11)
  assert students.choose(12, 4) == (0, 4, 7, 11)
  assert students.choose(6, 3, 'first') == (0, 1, 2)
  assert students.choose(6, 3, 'last') == (3, 4, 5)
  assert students.choose(6, 1) == (0,)
  assert students.choose(6, 2, 'every') == (2, 5)
  assert students.choose(12, 6, 'every') == (1, 3, 5, 7, 9, 11)
  assert students.choose(12, 5, 'every') == (1, 3, 6, 8, 11)
  assert students.choose(6, (5, 0)) == (5, 0)
  for layers in range(1, 25):
    assert len(set(students.choose(24, layers))) == layers
    assert len(set(students.choose(24, layers, 'every'))) == layers


@pytest.mark.parametrize(
  ('layers', 'pick', 'message'),
  [
    (3, 'skip', 'cannot pick 3 layers from a teacher of 2'),
    (0, 'first', 'cannot pick 0'),
    ((0, 2), 'skip', r'\(0, 2\): the teacher has layers 0 to 1'),
    ((-1,), 'skip', 'layers 0 to 1'),
    (1, 'middle', "'middle' is not one of"),
  ],
)
def test_layers_that_are_not_there_are_refused(layers, pick, message):
  conf = model_zoo.config('bert')
  with pytest.raises(ValueError, match=message):
    students.cut(hf.build(conf), conf, layers, pick)


def test_no_buffer_is_shared_with_the_teacher_or_between_layers():
  """A donated student must not delete its teacher."""
  conf = model_zoo.config('bert')
  teacher = hf.build(conf)
  student, _ = students.cut(teacher, conf, (0, 0))
  arrays = jax.tree.leaves([net.split(m)[1] for m in (teacher, student)])
  places = [a.unsafe_buffer_pointer() for a in arrays]
  assert len(places) == len(set(places))


@pytest.mark.parametrize('family', model_zoo.FAMILIES)
def test_a_random_student_has_its_sizes_in_the_config_and_can_be_read(tmp_path, family):
  conf = model_zoo.config(family)
  student, small = students.random(conf, layers=1, width=24, heads=3, ffn=40, seed=5)
  spec = student.spec
  assert (spec.layers, spec.width, spec.heads, spec.ffn) == (1, 24, 3, 40)
  assert spec.vocab == conf.vocab_size
  assert (small.hidden_size, conf.hidden_size) == (24, 32)
  if family == 'distilbert':
    assert (small.n_layers, small.dim, small.n_heads, small.hidden_dim) == (1, 24, 3, 40)
  hf.save(tmp_path, student, small)
  assert hf.load(tmp_path)[0].spec == spec


def test_a_width_that_the_heads_do_not_divide_is_refused():
  with pytest.raises(ValueError, match='width 30 is not divisible by 4 heads'):
    students.random(model_zoo.config('bert'), width=30)
  same, conf = students.random(model_zoo.config('bert'))
  assert same.spec.width == conf.hidden_size == 32
