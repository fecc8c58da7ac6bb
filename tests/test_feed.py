"""Data on the devices, several steps a call: the batches and the runs of one step at a time.

A game of two small players, and kd, by default; every method: pytest -m slow tests/test_feed.py
"""

import functools
import itertools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env, feed, guard, methods, seeds, sharding, stop, train
from kdjax.data import batches, tokens
from kdjax.methods import base
from tests import tiny, toy
from tests.methods import crash

STEPS, EVERY, LOG, CALL = 11, 5, 3, 4  # no one a multiple of another


def _text(rng, n=60, V=30, L=20):
  length = rng.integers(2, L + 1, n)
  ids = np.where(np.arange(L) < length[:, None], rng.integers(1, V, (n, L)), 0)
  segments = np.where(ids > 0, rng.integers(0, 2, (n, L)), 0)
  return tokens.Tokens(*(a.astype(np.int32) for a in (ids, segments, length)))


def _data(rng, kind):
  n = 60
  index = (rng.permutation(n) + 1000).astype(np.int32)
  label = rng.integers(0, 3, n).astype(np.int32)
  if kind == 'images':
    pixels = rng.integers(0, 256, (n, 20, 3)).astype(np.uint8)
    pixels.flat[:256] = np.arange(256)
    zeros = np.broadcast_to(np.int32(0), (n, 20))
    return batches.Dataset(
      tokens.Tokens(pixels, zeros, np.full(n, 20, np.int32)), label, index, None
    )
  data = batches.Dataset(_text(rng), label, index, np.arange(30) >= 5)
  if kind == 'two readers':
    known = dict(teacher_logits=rng.normal(size=(n, 3)).astype(np.float32))
    label = rng.normal(size=(n, 4)).astype(np.float32)
    data = data._replace(teacher=_text(rng), known=known, label=label)
  return data


def _equal(found, wanted):
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    assert found[name].dtype == x.dtype, name
    np.testing.assert_array_equal(found[name], x, err_msg=name)


@pytest.mark.parametrize('size', [1, CALL])
@pytest.mark.parametrize('here', [True, False])
def test_a_program_traces_its_step_once(rng, size, here):
  data, mesh, traces = _data(rng, 'text'), sharding.make_mesh(4), []

  def step(state, frozen, batch, key):
    traces.append(1)
    return state + batch['tokens'].sum(), dict(loss=batch['label'].mean() + frozen)

  same = sharding.replicated(mesh)
  step = jax.jit(
    sharding.under(mesh, step),
    in_shardings=(same, same, sharding.rows(mesh), same),
    out_shardings=(same, same),
  )
  play = feed.program(step, size, mesh, None, None, False)
  plan = itertools.islice(batches.train_plan(data, 8, (20,), 0), CALL)
  state, lying = sharding.place(dict(state=np.int32(0)), mesh)['state'], None
  if here:
    lying = feed.place(data, mesh)
  said = []
  for call in feed.calls(plan, 0, size, lambda step: ('a',), data, here, batches.ALL, mesh):
    steps = len(call.index)
    state, log = play(call.length, state, np.float32(1), lying, call.rows, steps, jax.random.key(0))
    said.append((log, steps))
  assert len(traces) == 1 and len(feed.rows(said)) == CALL
  assert int(state) == data.tokens.tokens[np.concatenate([rows for _, rows in _plan(data)])].sum()


def _plan(data):
  return list(itertools.islice(batches.train_plan(data, 8, (20,), 0), CALL))


@pytest.mark.parametrize('kind', ['text', 'two readers', 'images'])
@pytest.mark.parametrize('devices, n', [(1, 1), (4, 1), (4, 2)])
def test_a_batch_that_is_gathered_is_the_hosts_bit_for_bit(rng, kind, devices, n):
  data, mesh = _data(rng, kind), sharding.for_seeds(sharding.make_mesh(devices), n)
  L = 20 if kind == 'images' else int(rng.integers(2, 21))
  rows = rng.integers(0, 60, (n, 8) if n > 1 else 8).astype(np.int32)
  at = sharding.rows(mesh, n > 1)
  build = jax.jit(
    functools.partial(batches.build, L=L),
    in_shardings=(sharding.replicated(mesh), at),
    out_shardings=at,
  )
  compiled = build.lower(feed.place(data, mesh), rows).compile()
  _equal(compiled(feed.place(data, mesh), jax.device_put(rows, at)), batches.host(data, rows, L))
  text = compiled.as_text()  # each device gathers its own rows
  assert not any(f'{op}-' in text for op in ('all', 'reduce-scatter', 'collective')), text


@pytest.mark.parametrize('group, block', [(1, 0), (2, 0), (1, 30)])
@pytest.mark.parametrize('run', [2, 5, 100])
def test_runs_of_one_length_are_the_same_batches_in_another_order(rng, group, block, run):
  length = rng.choice([4, 10, 18], 203).astype(np.int32)
  ids = np.zeros((203, 20), np.int32)
  data = _data(rng, 'text')._replace(
    tokens=tokens.Tokens(ids, ids, length), label=length, index=np.arange(203, dtype=np.int32)
  )
  data = data._replace(group=group, block=block)
  seed, epoch = int(rng.integers(99)), 203 // 8

  def plan(run, start=0):
    return batches.train_plan(data, 8, (6, 12), seed, start, run)

  one, many = (list(itertools.islice(plan(k), 3 * epoch)) for k in (1, run))
  for begin in range(0, 3 * epoch, epoch):
    sets = [sorted((L, *rows) for L, rows in own[begin : begin + epoch]) for own in (one, many)]
    assert sets[0] == sets[1]
    if not block:
      lengths = [L for L, _ in many[begin : begin + epoch]]
      most = sum(-(-lengths.count(L) // run) for L in set(lengths))
      assert len(list(itertools.groupby(lengths))) <= most
  start = int(rng.integers(3 * epoch))
  for (L, rows), (L_late, late) in zip(many[start:], plan(run, start), strict=False):
    assert L_late == L
    np.testing.assert_array_equal(rows, late)
  alone = [L for L, _ in many]
  other = batches.train_plan(data, 8, (6, 12), seed + 1, 0, run)
  assert [L for L, _ in itertools.islice(other, 3 * epoch)] == alone  # all seeds go together


@pytest.mark.parametrize('here', [False, True])
@pytest.mark.parametrize('n', [1, 2])
def test_calls_are_the_plan_and_go_across_no_border(rng, here, n):
  data, mesh = _data(rng, 'text'), sharding.for_seeds(sharding.make_mesh(4), n)
  begin, size, steps = int(rng.integers(5)), int(rng.integers(1, 6)), 40
  plans = [
    list(itertools.islice(batches.train_plan(data, 8, (6, 12), s, begin, size), steps))
    for s in range(n)
  ]
  key = lambda step: (('student', 'generator')[step % 7 > 4], step // 9)  # noqa: E731
  found = list(feed.calls(seeds.batches(plans), begin, size, key, data, here, slice(None), mesh))
  step = begin
  for call in found:
    assert 1 <= len(call.index) <= size
    for i, index in enumerate(call.index):
      L, rows = plans[0][step - begin]
      assert (call.player, call.length) == (key(step)[0], L) and key(step) == key(step - i)
      rows = np.stack([own[step - begin][1] for own in plans]) if n > 1 else rows
      np.testing.assert_array_equal(index, data.index[rows])
      sent = {k: np.asarray(v)[i] for k, v in call.rows.items()}
      _equal(sent, dict(index=rows.astype(np.int32)) if here else batches.host(data, rows, L))
      step += 1
    for x in call.rows.values():
      assert len(x) == size and x.sharding == sharding.rows(mesh, n > 1, True)
  assert step == begin + steps


def _small():
  """(method, parameters): two players with dropout and a memory, compiled in no time."""

  def gap(params, memory, batch, key):
    e_BLD = params['student']['table'][batch['tokens']] * params['generator']['scale'][None, None]
    kept = batch['mask'] & jax.random.bernoulli(key, 0.8, batch['mask'].shape)
    z_B = jnp.where(kept[..., None], jnp.tanh(e_BLD), 0).sum((1, 2))
    found = ((z_B - batch['label']) ** 2).mean()
    return found, memory + 1

  def student(params, memory, batch, key):
    found, memory = gap(params, memory, batch, key)
    return found, (memory, dict(count=memory))

  def generator(params, memory, batch, key):
    found, memory = gap(params, memory, batch, key)
    return -found, (memory, dict(found=found))

  k_table, k_scale = jax.random.split(jax.random.key(0))
  params = dict(
    student=dict(table=jax.random.normal(k_table, (tiny.VOCAB, 6))),
    generator=dict(scale=jax.random.normal(k_scale, (6,))),
  )
  players = {
    'generator': base.Player(('generator',), generator),
    'student': base.Player(('student',), student),
  }
  return base.Method(players, lambda *_: ({}, jnp.zeros((), jnp.float32))), params


class Runs:
  """Runs that differ in steps a call and in where the data are, and have one order of batches."""

  def __init__(self, rng, folder, patch, name, devices=1, n=1, kind='classes', **changes):
    if name == 'small':
      method, params = _small()
    else:
      world, params = tiny.world(kind, **tiny.HEADS.get(name, {}))
      method = methods.get(name)(tiny.fields(name), world)
    players = list(method.players)  # in turn, two steps each
    self._method = method._replace(turn=lambda step, steps: players[step // 2 % len(players)])
    own = lambda i: jax.tree.map(lambda x: x * (1 + i / 10), params['student'])  # noqa: E731
    self._params = [params | dict(student=own(i)) for i in range(n)]
    self._mesh = sharding.for_seeds(sharding.make_mesh(devices), n)
    self._folder, self._patch, self.games = folder, patch, {}
    # Of gradients that are 0 but for rounding, Adam's own epsilon would make whole steps.
    self._changes = dict(steps=STEPS, eval_every=EVERY, log_every=LOG, epsilon=1e-3) | changes
    self.data = crash.dataset(rng)._replace(label=tiny.dataset(kind).label)
    plan, self.asked, self._start = batches.train_plan, threading.Event(), train.start
    patch.setattr(batches, 'train_plan', lambda *args: plan(*args[:-1], CALL))
    patch.setattr(stop, '_asked', self.asked)
    patch.setattr(train, 'start', self._started)

  def _started(self, method, params, data, c, *rest):
    """Programs are compiled once for all runs of one size of call."""
    if c.steps_per_call not in self.games:
      self.games[c.steps_per_call] = self._start(method, params, data, c, *rest)
    game = self.games[c.steps_per_call]
    return game._replace(state=jax.tree.map(jnp.copy, game.state))

  def play(self, folder, size, resident, lengths=(tiny.LENGTH,), **changes):
    """(results, log) of a run to its end."""
    many = len(self._params) > 1
    score = lambda params: [crash.score(own) for own in seeds.part(params, len(self._params))]  # noqa: E731
    c = tiny.train_fields(
      **self._changes | dict(steps_per_call=size, resident=float(resident)) | changes
    )
    where = self._folder / folder
    found = train.fit(
      self._method, self._params if many else self._params[0], self.data,
      score if many else crash.score, c, lengths, where, self._mesh, 'run',
    )  # fmt: skip
    return found, tiny.logged(where)

  def stopped(self, folder, size, resident, **changes):
    """The same, told to stop in its first call, and started again."""
    self.asked.set()
    with pytest.raises(stop.Stopped):
      self.play(folder, size, resident)
    self.asked.clear()
    return self.play(folder, size, resident, **changes)


def _near(found, wanted):
  for one, two in zip(found[0], wanted[0], strict=True):
    tiny.near(one.params, two.params, 'parameters')
  for one, two in zip(found[1], wanted[1], strict=True):
    assert one.keys() == two.keys()
    rows = ({k: v for k, v in row.items() if 'validation' not in k} for row in (one, two))
    tiny.near(*rows, 'log')  # crash.score is of single bits


def _same(found, wanted, log=True):
  for one, two in zip(found[0], wanted[0], strict=True):
    assert jax.tree.all(jax.tree.map(np.array_equal, one.params, two.params))
    assert one[1:] == two[1:]
  assert not log or found[1] == wanted[1]


FEW, ALL = ('small', 'kd'), ('small', *methods.names())
each = pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in ALL]
)


@each
def test_several_steps_a_call_learn_what_single_steps_learn_and_go_on_anywhere(
  rng, tmp_path, monkeypatch, name
):
  runs = Runs(rng, tmp_path, monkeypatch, name)
  one, many = runs.play('one', 1, False), runs.play('many', CALL, True)
  _near(many, one)
  _same(runs.stopped('stopped', CALL, True), many)
  # Whatever the calls are that its steps are played in.
  _same(runs.stopped('otherwise', CALL, True, log_every=2), many, log=False)
  assert {play._cache_size() for play in runs.games[CALL].calls.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('devices, n', [(1, 1), (4, 1), (4, 2)])
def test_where_the_data_are_changes_nothing(rng, tmp_path, monkeypatch, name, devices, n):
  runs = Runs(rng, tmp_path, monkeypatch, name, devices, n)
  for size in (1, CALL):
    _near(*(runs.play(f'{size} {here}', size, here) for here in (False, True)))


@pytest.mark.parametrize(
  'name, devices, n',
  [
    ('small', 4, 2),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in (
      ('small', 4, 1), ('small', 1, 3), ('codir', 4, 1), ('codir', 4, 2), ('mate_kd', 1, 3),
    )),
  ],
)  # fmt: skip
def test_seeds_and_devices_play_several_steps_a_call_too(
  rng, tmp_path, monkeypatch, name, devices, n
):
  runs = Runs(rng, tmp_path, monkeypatch, name, devices, n)
  one, many = runs.play('one', 1, False), runs.play('many', CALL, True)
  _near(many, one)
  _same(runs.stopped('stopped', CALL, True), many)


@pytest.mark.parametrize('n', [1, 2])
def test_of_equal_scores_the_first_is_the_best(rng, tmp_path, monkeypatch, n):
  runs, seen = Runs(rng, tmp_path, monkeypatch, 'small', n=n), []
  monkeypatch.setattr(
    crash, 'score', lambda params: seen.append(jax.device_get(params)) or dict(accuracy=0.5)
  )
  found, _ = runs.play('run', CALL, True)
  assert len(seen) == 3 * n and [one.step for one in found] == [EVERY] * n
  for one, first in zip(found, seen[:n], strict=True):
    jax.tree.map(np.testing.assert_array_equal, one.params, first)


@pytest.mark.parametrize('here', [pytest.param(False, marks=pytest.mark.slow), True])
def test_lengths_come_in_runs_and_each_has_one_program(rng, tmp_path, monkeypatch, here):
  runs, lengths = Runs(rng, tmp_path, monkeypatch, 'small'), (6, tiny.LENGTH)
  short = np.where(np.arange(40) % 2, 6, tiny.LENGTH).astype(np.int32)
  runs.data = runs.data._replace(tokens=runs.data.tokens._replace(length=short))
  one, many = (runs.play(str(size), size, here, lengths) for size in (1, CALL))
  _near(many, one)
  assert [play._cache_size() for play in runs.games[CALL].calls.values()] == [2, 2]


@pytest.mark.parametrize('policy', ['skip', 'stop'])
def test_a_step_in_the_middle_of_a_call_is_named_with_its_rows(
  rng, tmp_path, monkeypatch, caplog, policy
):
  runs = Runs(rng, tmp_path, monkeypatch, 'small', kind='regression', nonfinite=policy)
  plan = batches.train_plan(runs.data, 8, (tiny.LENGTH,), 0, 0, 1)
  steps = [rows for _, rows in itertools.islice(plan, STEPS)]
  bad = int(rng.choice(steps[0]))
  label = runs.data.label.copy()
  label[bad] = np.nan
  runs.data = runs.data._replace(label=label)
  wanted = [n for n, rows in enumerate(steps, 1) if bad in rows]
  if policy == 'stop':
    with pytest.raises(FloatingPointError, match=f'step {wanted[0]}, '):
      runs.play('run', CALL, True)
    wanted = wanted[:1]
  else:
    runs.play('run', CALL, True)
  found = [json.loads(row) for row in (tmp_path / 'run' / guard.FILE).read_text().splitlines()]
  assert [row['step'] for row in found] == wanted
  assert [row['examples'] for row in found] == [list(steps[n - 1]) for n in wanted]


def test_data_that_do_not_fit_stay_on_the_host(rng):
  data = _data(rng, 'two readers')
  size = 60 * (2 * (20 * 5 + 4) + 4 * 4 + 4 + 3 * 4) + 30
  assert feed.fitting(data, size / 1e9) and not feed.fitting(data, (size - 1) / 1e9)
  there, shapes = feed.place(data, sharding.make_mesh(2)), feed.fitting(data, 1.0)
  assert sum(x.nbytes for x in jax.tree.leaves(there)) == size
  said = sharding.table(dict(data=shapes), sharding.make_mesh(2))
  _, _, line, *_ = said.splitlines()  # ten arrays, in all and on each of the two
  assert line.split() == f'data nothing: whole 10 {2 * f"{size / 1e6:.2f} MB "}'.split()


@pytest.mark.parametrize('field, value', [('steps_per_call', 0), ('resident', -1.0)])
def test_what_cannot_be_is_refused_with_the_field(rng, tmp_path, field, value):
  c = toy.config('kd', tmp_path, rng, **{f'train.{field}': value})
  with pytest.raises(ValueError, match=rf'config.train.{field}={value} must be at least'):
    env.settle(c)
