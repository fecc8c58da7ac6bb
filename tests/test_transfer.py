"""Unlabelled text beside the train split, which the teacher labels."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import env, jobs, methods, runs, staging, tasks
from kdjax.data import batches, sources
from tests import tiny, toy
from tests.data import data_config

KINDS = ('classes', 'regression', 'multilabel')
STEPS = {'train.steps': 4, 'teacher.steps': 2, 'train.eval_every': 4}


def _labels(rng, kind, n=8):
  """(labels, of which rows 1, 2 and 5 have none; which have one)."""
  label = tiny.batch(rng, n, kind)['label']
  there = ~np.isin(np.arange(n), (1, 2, 5))
  label[~there] = -1 if kind == 'classes' else np.nan
  return label, there


@pytest.mark.parametrize('kind', KINDS)
def test_rows_without_a_label_have_no_loss_and_exactly_no_gradient(rng, kind):
  label, there = _labels(rng, kind)
  logits = jnp.asarray(rng.normal(size=(8, 1 if kind == 'regression' else 3)), jnp.float32)
  whole, task = tasks.KINDS[kind], tasks.partly(tasks.KINDS[kind])

  def mean(logits, label, task):
    return task.loss(logits, label).mean()

  value, grad = jax.value_and_grad(mean)(logits, label, task)
  want, want_grad = jax.value_and_grad(mean)(logits[there], label[there], whole)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  np.testing.assert_allclose(grad[there], want_grad, rtol=1e-5, atol=1e-7)
  assert (np.asarray(grad)[~there] == 0).all() and (np.asarray(want_grad) != 0).any()
  none = label[~there]
  value, grad = jax.value_and_grad(mean)(logits[~there], none, task)
  assert value == 0 and (np.asarray(grad) == 0).all()
  np.testing.assert_array_equal(  # where all have one, nothing is another
    task.loss(logits[there], label[there]), whole.loss(logits[there], label[there])
  )
  np.testing.assert_array_equal(sources.labelled(label), there)
  none = sources.unlabelled(3, kind, 3)
  assert none.shape[1:] == label.shape[1:] and not sources.labelled(none).any()


def _world(kind='classes'):
  world, params = tiny.world(kind)
  task = tasks.partly(world.task)
  return world._replace(task=task, partly=True, student=env.quiet(world.student)), params


def test_in_kd_they_learn_from_the_teacher_alone(rng):
  world, params = _world()
  batch = tiny.batch(rng)
  batch['label'], there = _labels(rng, 'classes')
  other = batch | dict(tokens=np.where(there[:, None], batch['tokens'], 2))

  def loss(own, batch, **weights):
    method = methods.get('kd')(tiny.fields('kd', **weights), world)
    loss = method.players['student'].loss
    return loss(params | dict(student=own), (), batch, jax.random.key(0))

  hard = jax.jit(jax.value_and_grad(lambda own, batch: loss(own, batch, soft=0.0)[0]))
  soft = jax.jit(lambda own, batch: loss(own, batch, hard=0.5, soft=2.0))
  few = {k: v[there] for k, v in batch.items()}
  (value, grad), (want, want_grad), (_, same) = (
    hard(params['student'], x) for x in (batch, few, other)
  )
  np.testing.assert_allclose(value, want, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(same), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # what they say is nothing to it
  whole, (_, metrics) = soft(params['student'], batch)
  assert metrics['hard'] == pytest.approx(float(value), rel=1e-5)
  np.testing.assert_allclose(whole, 0.5 * value + 2 * metrics['soft'], rtol=1e-5)
  s, t = (
    jax.nn.log_softmax(jax.jit(net)(params[name], batch).logits)
    for name, net in (('student', world.student), ('teacher', world.teacher))
  )
  gap = (jnp.exp(t) * (t - s)).sum(1)
  np.testing.assert_allclose(metrics['soft'], gap.mean(), rtol=1e-4)  # of all rows


@pytest.mark.parametrize(
  'name, changes',
  [
    ('mixkd', dict(hard_new=1.0)),
    ('freelb', dict(target='label')),
    ('annealing_kd', {}),
    ('continuation_kd', {}),
  ],
)
@pytest.mark.parametrize('kind', ['classes', 'regression'])
def test_every_gold_term_leaves_them_out(rng, name, changes, kind):
  from kdjax.methods import base

  world, params = _world(kind)
  method = methods.get(name)(tiny.fields(name, **changes), world)
  data, batch = tiny.dataset(kind), tiny.batch(rng, kind=kind)
  batch['label'], _ = _labels(rng, kind)
  known = base.Data(data.index, data.label, 8, 400)
  extra, memory = method.init(jax.random.key(0), params, known)
  for player in method.players.values():
    own = {k: v for k, v in (params | extra).items() if k in player.owns}
    loss = lambda own, batch, p=player: p.loss(  # noqa: E731
      params | extra | own, memory, batch, jax.random.key(1)
    )[0]
    value, grad = jax.jit(jax.value_and_grad(loss))(own, batch)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grad))


def _config(folder, rng, method='kd', n=40, **changes):
  path = folder / 'more.csv'
  texts = [text for text, _ in toy.rows(rng, n)]
  path.write_text('\n'.join(['text', *texts]) + '\n')
  fields = STEPS | {'data.unlabelled': str(path), 'compare': ''} | changes
  return toy.config(method, folder, rng, **fields), texts


def test_a_run_learns_from_both_and_gold_runs_from_their_own_rows(rng, tmp_path, caplog):
  caplog.set_level('INFO', 'kdjax')
  c, texts = _config(tmp_path, rng, compare='finetune', **{'teacher.cache': 'always'})
  plan = jobs.prepare(c, tmp_path / 'work')
  data = plan.data['train']
  assert len(data.index) == 136 and len(np.unique(data.index)) == 136
  np.testing.assert_array_equal(sources.labelled(data.label), np.arange(136) >= 40)
  tokenizer = plan.student.tokenizer
  ids = [data.tokens.tokens[i, : data.tokens.length[i]].tolist() for i in range(40)]
  assert ids == tokenizer(texts, truncation=True, max_length=12)['input_ids']
  jobs.run(plan)
  assert '136 answers of the teacher stand for' in caplog.text
  assert 'kd: lengths 12: ' in caplog.text
  assert 'of 136 rows 96 have a gold label: 11.3 of a batch of 16' in caplog.text
  rows = {n: json.loads((tmp_path / 'work' / n / 'result.json').read_text())['rows']
          for n in ('teacher', 'finetune', 'kd')}  # fmt: skip
  assert rows == dict(teacher=96, finetune=96, kd=136)
  assert '96 training rows' in (tmp_path / 'work/teacher/model/README.md').read_text()
  log = tiny.logged(tmp_path / 'work' / 'kd')
  assert all(np.isfinite(row['student/hard']) for row in log if 'student/hard' in row)

  # Without the text, teacher and finetune are the same runs: they are not made again.
  alone = plan.c.copy_and_resolve_references()
  alone.data.unlabelled = ''
  for name in ('teacher', 'finetune'):
    assert not runs.differ(tmp_path / 'work' / name, runs.asked(alone, name))
  assert 'data.unlabelled' in runs.differ(tmp_path / 'work' / 'kd', runs.asked(alone, 'kd'))
  rest = jobs.prepare(alone, tmp_path / 'alone').data['train']
  own = plan.learned(gold=True)
  for a, b in zip(
    jax.tree.leaves((own.tokens, own.label)),
    jax.tree.leaves((rest.tokens, rest.label)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_a_teacher_with_its_own_tokenizer_reads_the_same_rows(rng, tmp_path):
  other = toy.model(tmp_path / 'student', words=[*reversed(toy.WORDS), 'extra'])
  c, texts = _config(tmp_path, rng, **{'student.init': str(other)})
  plan = jobs.prepare(c, tmp_path / 'work')
  data = plan.data['train']
  table = plan.text.splits['train']
  for ids, model in ((data.tokens, plan.student), (data.teacher, plan.teacher)):
    want = model.tokenizer(texts + table.first, truncation=True, max_length=12)['input_ids']
    assert [row[:n].tolist() for row, n in zip(ids.tokens, ids.length, strict=True)] == want


def test_a_generator_reads_all_of_it_and_its_teacher_the_labelled_rows(rng, tmp_path):
  c, _ = _config(tmp_path, rng, 'mate_kd')
  plan = jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache'))
  rows = {name: len(staging.rows_of(plan, name).index) for name in runs.order(c)}
  assert rows == dict(teacher=96, generator=136, mate_kd=136)
  assert staging.mixed(plan, 'generator') == staging.mixed(plan, 'teacher') == ''


def test_pairs_have_a_second_column(rng, tmp_path):
  c, texts = _config(tmp_path, rng)
  with c.unlocked():
    c.data.pair = 'text'  # of the toy's files: each text beside itself
  data = jobs.prepare(c, tmp_path / 'work').data['train']
  half = [len(t.split()) for t in texts]
  want = [min(12, 2 * n + 3) for n in half]
  np.testing.assert_array_equal(data.tokens.length[:40], want)
  data_config.jsonl(tmp_path / 'p.jsonl', [dict(a='x', b='y'), dict(a='', b=' ')])
  from kdjax.data import streams

  assert list(streams.documents(str(tmp_path / 'p.jsonl'), 'a', 'b')) == [('x', 'y')]
  with pytest.raises(ValueError, match=r"no column 'c'.*set config.data.pair"):
    list(streams.documents(str(tmp_path / 'p.jsonl'), 'a', 'c'))
  (tmp_path / 'p.txt').write_text('x\n')
  with pytest.raises(ValueError, match='a line is one text, and pairs are wanted'):
    list(streams.documents(str(tmp_path / 'p.txt'), 'a', 'b'))


def _of_pairs(folder, rng, method='kd', **changes):
  """The toy's task as one of pairs: each text beside the next."""
  said, fields = [text for text, _ in toy.rows(rng, 121)], STEPS | {'compare': ''} | changes
  rows = [(*two, ['neg', 'pos'][n % 2]) for n, two in enumerate(itertools.pairwise(said))]
  where = folder / 'pairs.csv'
  where.write_text('\n'.join(','.join(row) for row in [('text', 'pair', 'label'), *rows]) + '\n')
  c = toy.config(method, folder, rng, **fields)
  c.data.update(train=str(where), validation='', pair='pair', new_pairs=4, max_length=24)
  return c


def test_new_pairs_of_its_own_texts_stand_before_its_rows(rng, tmp_path):
  c = _of_pairs(tmp_path, rng, compare='finetune')
  plan = jobs.prepare(c, tmp_path / 'work')
  data, own = plan.data['train'], plan.learned(gold=True)
  train, n = plan.text.splits['train'], len(plan.data['train'].index)
  few = len(train.first)
  assert few < 120 and 4 * few * 0.7 < n - few <= 4 * few
  np.testing.assert_array_equal(data.index, np.arange(n))
  np.testing.assert_array_equal(sources.labelled(data.label), np.arange(n) >= n - few)
  ids = lambda tokens: {tuple(row[:k]) for row, k in zip(tokens.tokens, tokens.length)}  # noqa: E731, B905
  others = [env.datasets(plan, {'x': split})['x'] for split in plan.text.splits.values()]
  new = ids(batches.part(data, slice(n - few)).tokens)
  assert len(new) == n - few and not any(new & ids(other.tokens) for other in others)
  np.testing.assert_array_equal(own.label, train.label)
  assert f'{n - few:,} new pairs of its texts' in plan.text.origin
  jobs.run(plan)
  rows = {name: json.loads((tmp_path / 'work' / name / 'result.json').read_text())['rows']
          for name in ('teacher', 'finetune', 'kd')}  # fmt: skip
  assert rows == dict(teacher=few, finetune=few, kd=n)
  log = tiny.logged(tmp_path / 'work' / 'kd')
  assert all(np.isfinite(row['student/hard']) for row in log if 'student/hard' in row)
  alone = plan.c.copy_and_resolve_references()
  alone.data.new_pairs = 0
  differ = {name: runs.differ(tmp_path / 'work' / name, runs.asked(alone, name)) for name in rows}
  assert not differ['teacher'] and not differ['finetune'] and 'data.new_pairs' in differ['kd']
  assert not any('new_pairs' in key for key in runs.asked(alone, 'kd'))  # as it was before


def test_new_pairs_go_beside_text_without_labels(rng, tmp_path):
  c = _of_pairs(tmp_path, rng)
  more = data_config.jsonl(tmp_path / 'more.jsonl', [dict(text='bad film', pair='it was')] * 3)
  alone = len(jobs.prepare(c, tmp_path / 'work').data['train'].index)
  c.data.unlabelled = str(more)
  plan = jobs.prepare(c, tmp_path / 'more')
  data, few = plan.data['train'], len(plan.text.splits['train'].first)
  assert len(data.index) == alone + 3
  want = plan.student.tokenizer('bad film', 'it was')['input_ids']
  for row in range(3):
    assert data.tokens.tokens[row, : data.tokens.length[row]].tolist() == want
  np.testing.assert_array_equal(
    sources.labelled(data.label), np.arange(alone + 3) >= alone + 3 - few
  )


def test_new_pairs_are_refused_where_they_are_of_no_use(rng, tmp_path):
  def no(match, method='kd', **changes):
    c = _of_pairs(tmp_path, rng, method)
    c.data.update(changes)
    with pytest.raises(ValueError, match=match):
      jobs.prepare(c, tmp_path / 'work')
    assert not (tmp_path / 'work' / 'teacher').exists()

  no(r'new_pairs=4 is for tasks of pairs .*; own: its rows are single texts: set it', pair='')
  no('new_pairs=4 .* masked language models ask no teacher of them', 'mlm_kd')
  no("finetune learns from gold labels alone, .*unlabelled='' or new_pairs=4 has none", 'finetune')
  no('codir finds negatives by their labels, .* and new_pairs have none', 'codir')
  no('config.data.new_pairs=-1 must be at least 0', new_pairs=-1)


def test_what_cannot_use_it_is_refused_in_a_line(rng, tmp_path):
  def no(match, method='kd', task='', **changes):
    c, _ = _config(tmp_path, rng, method, **changes)
    with c.unlocked():
      c.task.name = task or c.task.name
    with pytest.raises(ValueError, match=match):
      jobs.prepare(c, tmp_path / 'work')
    assert not (tmp_path / 'work' / 'teacher').exists()

  no('finetune learns from gold labels alone, and config.data.unlabelled=.*kd.py', 'finetune')
  no('codir finds negatives by their labels', 'codir')
  no('codir finds negatives by their labels', 'augpro_codir')
  no('task rte reads pairs: name the second column .* in config.data.pair', task='rte',
     **{'data.train': '', 'data.validation': '', 'data.dir': str(_rte(tmp_path))})  # fmt: skip
  no('data.neighbours=2 is for masked language models', **{'data.neighbours': 2})
  no("no column 'words'; it has 'text': set config.data.text", **{'data.text': 'words'},
     **{'data.train': str(_renamed(tmp_path)), 'data.validation': ''})  # fmt: skip


def _rte(folder):
  for split in ('train', 'validation'):
    columns = dict(sentence1=['a'] * 9, sentence2=['b'] * 9, label=[0, 1, 1] * 3)
    data_config.parquet(folder / 'glue' / 'rte' / f'{split}.parquet', **columns)
  return folder / 'glue'


def _renamed(folder):
  return toy.file(folder / 'renamed.csv', np.random.default_rng(0), 40, ('words', 'label'))
