"""The rules, what is printed of them, and what is refused."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdjax import sharding


def _shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, np.float32)


TREE = dict(
  teacher=dict(
    embeddings=dict(word=dict(table=_shape(61, 8)), position=dict(table=_shape(10, 8))),
    layers={'0': dict(up=dict(kernel=_shape(8, 32), bias=_shape(32)))},
    head=dict(out=dict(kernel=_shape(7, 3), bias=_shape(3))),
  ),
  student=dict(layers={'0': dict(down=dict(kernel=_shape(32, 8), bias=_shape(8)))}),
  memory=dict(student=dict(bank=_shape(128, 6))),
)


def _specs(mesh):
  at = jax.tree_util.tree_leaves_with_path(sharding.lay(TREE, mesh))
  return {'/'.join(k.key for k in path): x.spec for path, x in at}


def test_the_first_rule_whose_end_fits_decides_and_what_does_not_divide_is_whole():
  assert _specs(sharding.make_mesh(1, 2, 2)) == {
    'teacher/embeddings/word/table': P(None, ('fsdp', 'tensor')),
    'teacher/embeddings/position/table': P(),
    'teacher/layers/0/up/kernel': P('fsdp', 'tensor'),
    'teacher/layers/0/up/bias': P('tensor'),
    'teacher/head/out/kernel': P(),  # 7 and 3 by nothing
    'teacher/head/out/bias': P(),
    'student/layers/0/down/kernel': P('tensor', 'fsdp'),
    'student/layers/0/down/bias': P(),
    'memory/student/bank': P('fsdp'),
  }


def test_data_alone_splits_nothing_but_banks():
  found = _specs(sharding.make_mesh())
  assert found.pop('memory/student/bank') == P('data')
  assert set(found.values()) == {P()}


def test_a_whole_role_is_whole_and_its_bank_is_not():
  found = _specs(sharding.make_mesh(2, 2, 1, 'student'))
  assert found['student/layers/0/down/kernel'] == P()
  assert found['teacher/layers/0/up/kernel'] == P('fsdp')
  assert found['memory/student/bank'] == P(('data', 'fsdp'))


def test_in_the_run_of_a_role_the_student_is_that_role():
  mesh = sharding.make_mesh(2, 2, 1, 'student')
  assert sharding.learner(mesh, 'teacher').whole == ()
  assert sharding.learner(mesh, 'kd').whole == ('student',)
  assert sharding.learner(mesh._replace(whole=('teacher',)), 'teacher').whole == ('student',)


def test_the_table_has_bytes_in_all_and_on_a_device():
  mesh = sharding.make_mesh(2, 2, 1)
  text = sharding.table(TREE, mesh)
  row = next(line for line in text.splitlines() if '[data+fsdp]' in line)
  assert row.split() == ['memory', '[data+fsdp]', '1', '3072', 'B', '768', 'B']
  assert 'teacher/head/out/kernel [7, 3]' in text.splitlines()[-1]
  want = 4 * (61 * 4 + 80 + 4 * 32 + 32 + 21 + 3 + 32 * 4 + 8 + 32 * 6)
  assert sharding.held(TREE, mesh) == want
  assert text.splitlines()[-2].split()[-2:] == [str(want), 'B']


@pytest.mark.parametrize(
  'sizes, message',
  [
    (dict(data=2, fsdp=4), r'data=2 x fsdp=4 x tensor=1 = 8 devices, but there are 4'),
    (dict(fsdp=3), r'fsdp=3 x tensor=1 does not divide 4 devices'),
    (dict(tensor=0), r'config.mesh.tensor=0: at least 1'),
    (dict(data=0), r'config.mesh.data=0: at least 1, or -1'),
    (dict(whole='pupil'), r"config.mesh.whole='pupil' names others than teacher, student"),
  ],
)
def test_a_mesh_that_cannot_be_is_refused_with_the_numbers(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(**sizes)


def test_a_batch_is_split_over_data_and_fsdp_together():
  mesh = sharding.make_mesh(1, 2, 2)
  assert mesh.rows == 2
  sharding.check_batch(mesh, 4, 2, 'train.batch_size')
  wanted = r'config.train.batch_size=6 .* 2 devices \(mesh.data=1 x mesh.fsdp=2\) x 2 .* of 4'
  with pytest.raises(ValueError, match=wanted):
    sharding.check_batch(mesh, 6, 2, 'train.batch_size')
  put = sharding.put(dict(x=np.arange(4)), mesh)['x']
  assert [len(s.data) for s in put.addressable_shards] == [2, 2, 2, 2]


@pytest.mark.parametrize(
  'seeds, sizes, want',
  [(1, (4,), {}), (8, (4,), dict(seed=4, data=1)), (6, (4,), dict(seed=2, data=2)),
   (3, (4,), dict(seed=1, data=4)), (2, (2, 1, 2), dict(seed=2, data=1, tensor=2))],
)  # fmt: skip
def test_the_data_axis_is_dealt_out_to_groups_of_seeds(seeds, sizes, want):
  mesh = sharding.make_mesh(*sizes)
  found = sharding.for_seeds(mesh, seeds)
  assert found.devices.shape.items() >= want.items() and ('seed' in found.devices.shape) == (
    seeds > 1
  )
  assert list(found.devices.devices.flat) == list(mesh.devices.devices.flat)


def test_what_each_seed_has_of_its_own_is_split_over_seeds_first_and_counted_so():
  mesh = sharding.for_seeds(sharding.make_mesh(2, 2, 1), 6)
  of_six = jax.tree.map(lambda x: _shape(6, *x.shape), TREE['student'])
  own = dict(teacher=TREE['teacher'], seeds=dict(student=of_six, bank=_shape(6, 128, 6)))
  at = sharding.lay(own, mesh)
  down = at['seeds']['student']['layers']['0']['down']
  assert (down['kernel'].spec, down['bias'].spec) == (P('seed', None, 'fsdp'), P('seed'))
  assert at['seeds']['bank'].spec == P('seed', 'fsdp')
  assert at['teacher']['layers']['0']['up']['kernel'].spec == P('fsdp')
  text = sharding.table({'teacher': TREE['teacher'], 'seeds/student': of_six}, mesh)
  assert text.startswith('devices: seed 2 x data 1 x fsdp 2 x tensor 1 = 4 x')
  row = next(line for line in text.splitlines() if 'seeds/student' in line)
  held = 3 * 32 * 8 // 2 * 4
  assert row.split()[1:] == ['[seed,', '-,', 'fsdp]', '1', '6144', 'B', f'{held}', 'B']
  batch = sharding.put(dict(x=np.zeros((6, 8))), mesh, True)['x']
  assert batch.sharding.shard_shape(batch.shape) == (3, 4)


def test_where_there_is_no_mesh_nothing_is_constrained():
  x = np.ones((3, 2))
  assert sharding.constrain(x, 'data') is x


def test_a_table_calls_what_learns_by_its_role():
  groups = {'student': TREE['teacher'], 'optimizer of student': TREE['teacher']}
  for learner, want in (('teacher', 'teacher'), ('kd', 'student')):
    text = sharding.table(groups, sharding.make_mesh(2), learner)
    assert f'\n  {want}  ' in text and f'\n  optimizer of {want}  ' in text
    assert ('student' in text) == (want == 'student')
