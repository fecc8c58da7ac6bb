"""More text without labels in a grid: the texts of other tasks, and what they do to its runs."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import texts
from configs import grid
from kdjax import jobs as kdjax_jobs
from kdjax import report, runs, staging
from kdjax.grid import jobs, scores
from tests import toy
from tests.data import data_config
from tests.grid import toy_grid

PAIR = ('sentence1', 'sentence2')


def _task(folder, name, columns, splits):
  """<folder>/<name>/<split>.parquet of (texts of a row..., label)."""
  for split, rows in splits.items():
    values = dict(zip((*columns, 'label'), map(list, zip(*rows, strict=True)), strict=True))
    data_config.parquet(folder / name / f'{split}.parquet', **values)


def _pairs(rng, n):
  said = [text for text, _ in toy.rows(rng, 2 * n)]
  return [(*pair, i % 2) for i, pair in enumerate(zip(said[::2], said[1::2], strict=True))]


def _config(folder, rng, setting='text'):
  """A setting of the grid on a toy RTE in this folder; MRPC and SST-2 lie beside it."""
  rte = dict(train=_pairs(rng, 120), validation=_pairs(rng, 24))
  _task(folder, 'rte', PAIR, rte)
  mrpc = _pairs(rng, 60)
  long = ('the ' * 40, 'a ' * 11, 0)
  a, b, _ = rte['validation'][7]
  mrpc += [(f'{b} .', a.upper(), 1)]  # the other way round, and otherwise spelled
  mrpc += [mrpc[3], (*rte['train'][0][:2], 1), (*rte['validation'][5][:2], 0), ('', 'it', 0), long]
  _task(folder, 'mrpc', PAIR, dict(train=mrpc, validation=mrpc[:8]))
  sst2 = [(text, int(label == 'pos')) for text, label in toy.rows(rng, 30)]
  _task(folder, 'sst2', ('sentence',), dict(train=sst2, validation=sst2))
  c, toyed = grid.get_config(setting), toy.config('kd', folder, rng, **toy_grid.STEPS)
  for part in ('teacher', 'student', 'train', 'eval'):
    c[part].update(toyed[part].to_dict())
  c.data.update(dir=str(folder), max_length=24, buckets=(), development=0.25)
  c.train.update(steps=0, eval_every=0)
  c.grid.tasks = 'rte'
  return c


def test_the_texts_of_other_tasks_are_those_that_no_split_of_the_task_has(rng, tmp_path):
  c = _config(tmp_path, rng)

  def read(name, split):
    columns = pq.read_table(tmp_path / name / f'{split}.parquet', columns=list(PAIR))
    return [tuple(row.values()) for row in columns.to_pylist()]

  found = texts.collect(c, ['mrpc'], words=50)
  own = {row for split in ('train', 'validation') for row in read('rte', split)}
  plain = lambda row: {text.lower().rstrip(' .') for text in row}  # noqa: E731
  known = [plain(row) for row in own]
  want = [row for row in dict.fromkeys(read('mrpc', 'train')) if plain(row) not in known]
  assert sorted(found) == sorted(want[:-2]) and found != want[:-2]  # not '', nor the long one
  assert texts.collect(c, ['mrpc'], words=50) == found
  assert len(texts.collect(c, ['mrpc'], words=51)) == len(found) + 1
  # Of the task itself, what is neither learned from nor chooses by.
  assert texts.collect(c, ['rte'], words=50) == []
  c.grid.of_task.rte.data.train_fraction = 0.5
  rest = texts.collect(c, ['rte'], words=50)
  assert len(rest) == pytest.approx(len(set(read('rte', 'train'))) * 0.75 * 0.5, abs=4)
  assert set(rest) < set(read('rte', 'train'))
  with pytest.raises(ValueError, match='--of=sst2: of one task a row is a text'):
    texts.collect(c, ['sst2'], words=50)


def test_the_command_leaves_out_the_share_that_the_grid_learns_from(rng, tmp_path, monkeypatch):
  rows = [(f'what is {n}', f'{n} is {rng.integers(99)}', n % 2) for n in range(2600)]
  columns = ('question', 'sentence')
  _task(tmp_path / 'glue', 'qnli', columns, dict(train=rows, validation=rows[:10]))
  said = {}
  for fraction in (0.1, 0.5):
    out = tmp_path / 'runs' / f'{fraction}.parquet'  # a folder that is not there yet
    asked = f'texts --task=qnli --of=qnli --dir={tmp_path}/glue --fraction={fraction} --out={out}'
    monkeypatch.setattr('sys.argv', asked.split())
    texts.main()
    said[fraction] = set(map(tuple, zip(*pq.read_table(out).to_pydict().values(), strict=True)))
    # 2,000 rows choose the checkpoint, and validation's own 10 are no text for a student.
    assert len(said[fraction]) == pytest.approx(600 * (1 - fraction), abs=12)
  assert said[0.5] < said[0.1] < {row[:2] for row in rows}
  monkeypatch.setattr('sys.argv', [*asked.split()[:-1], f'--out={out}/x.parquet'])
  monkeypatch.setattr(texts, 'collect', lambda *a: pytest.fail('read first'))
  with pytest.raises(SystemExit, match=r'error: no folder for --out=.*0.5.parquet/x.parquet: '):
    texts.main()


def test_methods_with_more_text_stand_beside_those_without_by_one_teacher(rng, tmp_path):
  c = _config(tmp_path / 'glue', rng)
  pool = [dict(text=a, pair=b) for a, b in texts.collect(c, ['mrpc'], words=50)]
  with c.unlocked():
    c.grid.text = str(data_config.jsonl(tmp_path / 'pool.jsonl', pool))
    c.grid.methods, c.seeds = 'kd,kd_text', 2
  work = tmp_path / 'work'
  plain, more = jobs.of(c, work, None)
  assert (plain.names, more.names) == (['teacher', 'kd'], ['teacher', 'kd_text'])
  assert runs.asked(plain.c, 'teacher') == runs.asked(more.c, 'teacher')
  rows = {row['run']: row for row in toy_grid.run(c, work)['rows']}
  assert list(rows) == ['teacher', 'kd', 'kd_text']
  train = 90
  steps = lambda name: rows[name]['cost']['steps']  # noqa: E731
  assert steps('kd') == 3 * (train // 16)
  assert steps('kd_text') == 2 * ((len(pool) + train) // 16)
  for row in rows.values():
    with np.load(work / 'rte/train1' / row['run'] / 'predictions' / 'validation.npz') as found:
      assert found['logits'].shape[1:] == (24, 2)
  ours, theirs = (rows[name]['scores']['validation']['accuracy'] for name in ('kd_text', 'kd'))
  mean = rows['kd_text']['difference']['validation']['mean']
  assert mean == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-9)
  assert not any(scores.missing(job) for job in jobs.of(c, work, None))


def test_methods_with_new_pairs_stand_beside_those_without_by_one_teacher(rng, tmp_path):
  assert {'cola', 'sst2'}.isdisjoint(grid.get_config('pairs').grid.tasks.split(','))
  c = _config(tmp_path / 'glue', rng, 'pairs')
  work, asked = tmp_path / 'work', []
  plain, more = jobs.of(c, work, None)
  assert plain.names == ['teacher', 'finetune', 'kd', 'pkd_tokens', 'augpro']
  assert more.names == ['teacher', 'kd_pairs', 'pkd_tokens_pairs', 'augpro_pairs']
  for job in (plain, more):
    plan = kdjax_jobs.prepare(job.c, work)
    asked.append(runs.asked(plan.c, 'teacher'))
    rows = [len(staging.rows_of(plan, name).index) for name in job.names]
    assert rows[0] == len(plan.text.splits['train'].first) == 90
    assert set(rows[1:]) == ({90} if job is plain else {len(plan.data['train'].index)})
  assert asked[0] == asked[1] and 5 * 90 < rows[1] <= 11 * 90


def test_text_and_new_pairs_go_together(rng, tmp_path):
  c = _config(tmp_path / 'glue', rng)
  pool = [dict(text=a, pair=b) for a, b in texts.collect(c, ['mrpc'], words=50)]
  with c.unlocked():
    c.grid.text = str(data_config.jsonl(tmp_path / 'pool.jsonl', pool))
    c.grid.methods = 'kd,kd_both'
  plain, both = jobs.of(c, tmp_path / 'work', None)
  assert (plain.names, both.names) == (['teacher', 'kd'], ['teacher', 'kd_both'])
  plan = kdjax_jobs.prepare(both.c, tmp_path / 'work')
  index = staging.rows_of(plan, 'kd_both').index
  assert 90 * 5 < len(index) - len(pool) <= 90 * 11
  assert both.c.baselines.kd_both.hard == 0.1 and both.c.train.epochs == 1.0


def test_rows_left_out_are_scored_of_a_teacher_whichever_job_comes_first(
  rng, tmp_path, monkeypatch
):
  c = _config(tmp_path / 'glue', rng, 'pairs')
  c.grid.methods, c.grid.rest, c.seeds = 'kd_pairs,finetune,kd', 20, 2
  c.grid.of_task.rte.data.train_fraction = 0.5
  work = tmp_path / 'work'
  folder = work / 'rte/train0.5'
  rows = {row['run']: row for row in toy_grid.run(c, work)['rows']}
  assert {name for name, row in rows.items() if jobs.REST not in row['scores']} == {'kd_pairs'}
  assert set(rows['kd']['share']) - set(rows['kd_pairs']['share']) == {jobs.REST}
  (folder / 'kd_pairs' / scores.FILE).unlink()  # now its job comes last
  before = toy_grid.run(c, work)
  assert jobs.REST in before['rows'][0]['scores']
  monkeypatch.setattr('kdjax.jobs.prepare', lambda *a, **k: pytest.fail('scored again'))
  assert toy_grid.run(c, work) == before
  # A base with text without labels has none: there is no difference from it on these rows.
  base = report.read_json(folder / 'kd' / scores.FILE)
  del base['scores'][jobs.REST]
  report.write_json(folder / 'kd' / scores.FILE, base)
  row = next(row for row in toy_grid.run(c, work)['rows'] if row['run'] == 'finetune')
  assert jobs.REST in row['scores'] and set(row['difference']) == {'development', 'validation'}
