"""A grid at toy size: from files on disk to the numbers of a table."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kdjax import env, methods, runs, tasks
from kdjax.data import ood, sources
from kdjax.grid import cells, gather, jobs, scores, setting, summary, tables
from tests import tiny, toy
from tests.grid import toy_grid

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """(config, workdir, grid.json's tree) of a finished grid."""
  folder = tmp_path_factory.mktemp('grid')
  c = toy_grid.config(folder)
  return c, folder / 'work', toy_grid.run(c, folder / 'work')


def test_every_run_has_its_numbers(done):
  _, _, grid = done
  assert [row['run'] for row in grid['rows']] == ['teacher', 'finetune', 'kd', 'token_replace']
  for row in grid['rows']:
    seeds = 1 if row['run'] == 'teacher' else 2
    judges = ['validation+test', 'validation', 'test']
    assert list(row['scores']) == ['development', *judges] and row['chosen'] == 'development'
    assert setting.judge(row) == 'validation+test'
    both, one, other = (np.array(row['scores'][split]['accuracy']) for split in judges)
    np.testing.assert_allclose(both, (40 * one + 20 * other) / 60)
    assert all(len(own['accuracy']) == seeds for own in row['scores'].values())
    assert row['cost']['seconds'] > 0 and row['cost']['latency_ms'] > 0 and row['rows'] == 72
    assert row['curve']['step'] == [2, 4] and len(row['curve']['accuracy']) == seeds
  places = {f'{split}{more}' for split in row['scores'] for more in ('', ' f1_macro')}
  assert set(grid['rows'][-1]['difference']) == set(grid['rows'][-1]['share']) == places
  assert grid['rows'][2]['cost']['relative'] == 1
  samples = grid['rows'][-1]['samples']
  assert len(samples) == 8 and any(row[0] != row[3] for row in samples)
  assert not any(row['samples'] for row in grid['rows'][:3])
  assert grid['rows'][2]['difference'] == {} and grid['rows'][0]['agreement'] == {}


def test_the_score_of_the_checkpoint_is_that_of_its_training(done):
  _, workdir, grid = done
  for row in grid['rows'][1:]:
    result = json.loads((workdir / row['workdirs'][0] / row['run'] / 'result.json').read_text())
    told = [own['metrics']['accuracy'] for own in result['seeds'].values()]
    assert row['scores']['development']['accuracy'] == told


def test_what_was_answered_is_not_answered_again(tmp_path, monkeypatch):
  from kdjax import evaluate

  wide = {'grid.fractions': (0.5,), 'grid.methods': 'kd'}
  c, more = (toy_grid.config(tmp_path, **wide, **{'grid.rest': n}) for n in (0, 20))
  before = toy_grid.run(c, tmp_path / 'work')['rows']
  seen, answer = [], evaluate.logits
  monkeypatch.setattr(
    evaluate, 'logits', lambda *a: seen.append((len(a[2].index), a[3])) or answer(*a)
  )
  monkeypatch.setattr(evaluate, 'speed', lambda calls, n: dict.fromkeys(calls, 1.0))
  after = toy_grid.run(more, tmp_path / 'work')['rows']
  rest = len(after[0]['scores'][jobs.REST]['accuracy'])
  folder = tmp_path / 'work' / after[1]['workdirs'][0] / 'kd' / 'predictions'
  rows = len(np.load(folder / 'train_rest.npz')['label'])
  assert [n for n, _ in seen] == [rows] * 3 and rest == 1  # the teacher, and two seeds
  for old, new in zip(before, after, strict=True):
    assert new['scores'] | old['scores'] == new['scores'] and jobs.REST in new['scores']
  # Other weights, and a file that was cut short: answered anew.
  (folder / 'test.npz').write_bytes((folder / 'test.npz').read_bytes()[:200])
  for path in (folder.parent / 'score.json', *(tmp_path / 'work').rglob('teacher/score.json')):
    path.unlink()
  with np.load(folder / 'validation.npz') as kept:
    np.savez(folder / 'validation.npz', **dict(kept) | dict(key='other', logits=0 * kept['logits']))
  seen.clear()
  again = toy_grid.run(more, tmp_path / 'work')['rows']
  assert sorted(n for n, _ in seen) == [20, 20, 40, 40]
  assert [row['scores'] for row in again] == [row['scores'] for row in after]


def test_training_rows_that_a_share_left_out_are_scored(tmp_path):
  from kdjax.data import table

  c = toy_grid.config(tmp_path, **{'grid.fractions': (0.5,), 'grid.methods': 'kd', 'grid.rest': 20})
  (row, _), workdir = toy_grid.run(c, tmp_path / 'work')['rows'], tmp_path / 'work'
  assert list(row['scores'])[-1] == jobs.REST and setting.judge(row) == 'validation+test'
  with np.load(workdir / row['workdirs'][0] / 'kd' / 'predictions' / 'train_rest.npz') as found:
    index, label, logits = found['index'], found['label'], found['logits']
  assert logits.shape[:2] == (2, len(label)) and 10 < len(set(index)) <= 20
  asked = jobs.of(c, workdir, None)[0].c
  whole = asked.copy_and_resolve_references()
  whole.data.update(train_fraction=1.0, development=0.0)
  text, source = env.read(asked)[2], env.read(whole)[2].splits['train']
  said = table.keys(source)
  for split in ('train', 'development'):
    assert not {said[n] for n in index} & set(table.keys(text.splits[split]))
  np.testing.assert_array_equal(label, source.label[index])


def test_nothing_finished_is_done_again(done, monkeypatch):
  c, workdir, grid = done
  monkeypatch.setattr('kdjax.jobs.prepare', lambda *a, **k: pytest.fail('prepared again'))
  assert toy_grid.run(c, workdir) == grid


def test_one_run_is_scored_without_the_others(done):
  c, workdir, grid = done
  (job,) = jobs.of(c, workdir, None)
  files = {name: job.workdir / name / scores.FILE for name in job.names}
  files['kd'].unlink()
  assert scores.missing(job) == ['kd']
  kept = {name: path.read_text() for name, path in files.items() if path.exists()}
  again = toy_grid.run(c, workdir)
  assert kept == {name: files[name].read_text() for name in kept}
  for row, before in zip(again['rows'], grid['rows'], strict=True):
    assert all(row[part] == before[part] for part in ('scores', 'agreement', 'difference'))


def test_an_independent_script_finds_the_same_numbers(done):
  _, workdir, grid = done
  (workdir / 'grid.json').write_text(json.dumps(grid))
  command = [sys.executable, 'benchmarks/recompute.py', f'--workdir={workdir}']
  check = lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: E731
  found = check()
  assert found.returncode == 0, found.stderr
  assert '104 numbers of 4 runs recomputed' in found.stdout
  wrong = json.loads(json.dumps(grid))
  wrong['rows'][2]['scores']['validation']['accuracy'][1] += 0.01
  (workdir / 'grid.json').write_text(json.dumps(wrong))
  assert 'own kd, validation accuracy' in check().stderr


def test_another_grid_of_the_folder_is_not_taken_for_this_one(done):
  c, workdir, _ = done
  (job,) = jobs.of(c, workdir, None)
  assert scores.missing(job) == []
  assert scores.missing(job._replace(sets=('imdb',))) == job.names
  here, there = (
    jobs.of(toy_grid.config(workdir.parent, **{'grid.ood_dir': folder}), workdir, None)[0]
    for folder in ('here', 'there')
  )
  assert scores.missing(there) == []  # no set is read from there
  asked = [scores._asked(job._replace(sets=('imdb',))) for job in (here, there)]
  assert asked[0] != asked[1]
  other = c.copy_and_resolve_references()
  other.train.rate = 0.1
  assert scores.missing(jobs.of(other, workdir, None)[0]) == ['finetune', 'kd', 'token_replace']


def test_fields_of_a_method_make_a_job_of_its_own_by_the_same_teacher(tmp_path):
  c = toy_grid.config(tmp_path)
  with c.unlocked():
    c.grid.methods = 'finetune,kd,augpro'
    c.grid.of_method.augpro = dict(train=dict(rate=0.01), baselines=dict(augpro=dict(alpha=0.4)))
    c.grid.of_method.kd = dict(baselines=dict(kd=dict(temperature=2.0)))
  plain, own = jobs.of(c, tmp_path, None)
  assert plain.names == ['teacher', 'finetune', 'kd'] and own.names == ['teacher', 'augpro']
  assert plain.workdir == own.workdir == tmp_path / 'own/train1'
  assert (plain.c.train.rate, own.c.train.rate) == (3e-4, 0.01)
  assert own.c.method.alpha == 0.4 and plain.c.method.temperature == 2.0
  from kdjax import runs

  assert runs.asked(plain.c, 'teacher') == runs.asked(own.c, 'teacher')
  with c.unlocked():
    c.grid.of_method.augpro = dict(train=dict(rat=0.01))
  with pytest.raises(ValueError, match=r'config.grid.of_method.augpro.*"rat" does not exist'):
    jobs.of(c, tmp_path, None)


@pytest.mark.parametrize(
  ('finetune', 'fields', 'match'),
  [
    (True, dict(train=dict(batch_size=8)), 'one teacher.* train.batch_size:'),
    (True, dict(train=dict(warmup=0.3, eval_every=1)), 'train.eval_every, train.warmup:'),
    (True, dict(data=dict(train_fraction=0.5)), 'data.train_fraction'),
    (True, dict(generator=dict(layers=1)), 'one generator.* generator.layers:'),
    (False, dict(teacher=dict(init='another')), 'one teacher.* teacher.init:'),
    (True, dict(train=dict(epochs=2.0, rate=1e-4, keep=3)), ''),
    (False, dict(train=dict(batch_size=8)), ''),  # it is taken as it is
  ],
)
def test_methods_of_one_folder_have_one_teacher_and_one_generator(
  tmp_path, finetune, fields, match
):
  c = toy_grid.config(tmp_path)
  with c.unlocked():
    c.grid.methods, c.teacher.finetune = 'kd,mate_kd,cilda', finetune
    c.generator.finetune = finetune
    c.grid.of_method.cilda = fields
  if match:
    with pytest.raises(ValueError, match=f'config.grid.of_method: mate_kd and cilda .*{match}'):
      jobs.of(c, tmp_path, None)
  else:
    assert len(jobs.of(c, tmp_path, None)) == 2


def test_the_part_that_chooses_is_the_same_for_every_share_of_the_rest(tmp_path):
  c = toy.config('kd', tmp_path, np.random.default_rng(0), **{'data.development': 0.25})
  read = lambda **data: (c.data.update(data), env.read(c)[1:])[1]  # noqa: E731
  (spec, whole), (_, half) = read(), read(train_fraction=0.5)
  assert spec.evaluation == ('development', 'validation')
  rows = {name: set(table.index.tolist()) for name, table in whole.splits.items()}
  assert (len(rows['train']), len(rows['development'])) == (72, 24)
  assert rows['train'] | rows['development'] == set(range(96))
  assert half.splits['development'].index.tolist() == whole.splits['development'].index.tolist()
  assert len(half.splits['train'].index) == 36
  assert set(half.splits['train'].index.tolist()) < rows['train']
  assert len(read(development=10.0)[1].splits['development'].index) == 10
  for wrong in (96.0, 0.001, -1.0):
    with pytest.raises(ValueError, match=r'config.data.development=.* of 96 .* on one side'):
      read(development=wrong)


@pytest.mark.parametrize('development', [0.0, 0.25])
@pytest.mark.parametrize('public', [True, False])
def test_a_test_split_is_scored_where_its_labels_are_public(tmp_path, public, development):
  rng = np.random.default_rng(0)
  c = toy.config('kd', tmp_path, rng, **{'data.development': development})
  test = toy.file(tmp_path / 'test.csv', rng, 20, ('text', 'label' if public else 'other'))
  c.data.test = str(test)
  _, spec, text = env.read(c)
  assert len(text.splits['test'].first) == 20
  chooses = ['development'] * bool(development)
  assert spec.evaluation == (*chooses, 'validation', *['test'] * public)


def test_every_split_that_chose_nothing_has_its_difference():
  numbers = {split: dict(accuracy=[0.5, 0.6]) for split in ('development', 'validation', 'test')}
  apart = dict(mean=0.01, low=0.001, high=0.02, decided=True)
  row = dict(
    task='t', fraction=1.0, run='kd', rows=9, parameters=10, chosen='development', seeds=[0, 1],
    metrics=['accuracy'], scores=numbers, share=dict(validation=0.5), difference=dict(test=apart),
  )  # fmt: skip
  table = tables.results([row], dict(base='kd'))
  cells = dict(zip(table.head, table.lines[0], strict=True))
  assert cells['test accuracy - kd'] == '+0.0100 [+0.0010, +0.0200]'
  assert cells['validation accuracy - kd'] == '' and cells['gap closed, validation'] == '50 %'
  assert not any(name.startswith('development accuracy -') for name in cells)


def test_a_search_gives_each_method_as_many_trials(tmp_path):
  from configs import grid

  c = grid.get_config('search')
  c.grid.tasks = 'rte'
  todo = jobs.of(c, tmp_path, None)
  names = [name for job in todo for name in job.names if name != 'teacher']
  families = [name.rpartition('_')[0] for name in names]
  assert {families.count(name) for name in families} == {4}
  assert set(families) == set(grid.get_config('glue_low').grid.methods.split(','))
  rates = {job.c.train.rate for job in todo}
  assert len(todo) == len(rates) == 4 and all(job.search for job in todo)
  for name in set(families):  # the fields that are tried are there, and each trial is another
    pairs = [(j.c, n) for j in todo for n in j.names if n.rpartition('_')[0] == name]
    tried = {json.dumps([c.train.rate, c.baselines[n].to_dict()]) for c, n in pairs}
    shipped = set(grid.get_config('glue').baselines[name])
    assert len(tried) == 4 and all(set(c.baselines[n]) == shipped for c, n in pairs)


def test_a_trial_of_a_search_is_long_enough_for_its_method(rng):
  from configs import grid

  c, epoch, (world, _) = grid.get_config('search'), int(rng.integers(8, 1000)), tiny.world()
  for n in range(4):
    method = methods.get('backward_kd')(c.baselines[f'backward_kd_{n}'], world)
    method.check(round(c.train.epochs * epoch), epoch)


def test_a_search_runs_and_reads_the_part_that_chooses_alone(tmp_path):
  c = toy_grid.config(tmp_path)
  with c.unlocked():
    c.grid.search, c.grid.methods = True, 'kd_0,kd_1'
    for name, temperature in (('kd_0', 1.0), ('kd_1', 4.0)):
      c.baselines[name] = c.baselines.kd.to_dict() | dict(temperature=temperature)
  found = toy_grid.run(c, tmp_path / 'work')
  assert [row['run'] for row in found['rows']] == ['teacher', 'kd_0', 'kd_1']
  assert all(list(row['scores']) == ['development'] for row in found['rows'])
  (line,) = tables.all_of(found)[0].lines
  assert line[:3] == ['own', 'kd', '2'] and 'temperature' in line[-1]
  card = next((tmp_path / 'work').rglob('kd_1/seed1/model/README.md')).read_text()
  assert '`method.temperature`: `4.0`' in card


def test_a_search_reads_no_set_from_elsewhere(tmp_path):
  from configs import grid

  c = grid.get_config('search')
  c.grid.tasks, c.grid.ood = 'sst2', 'imdb'
  assert {job.sets for job in jobs.of(c, tmp_path, None)} == {()}


def test_a_card_of_a_trial_names_what_it_has_of_its_own(tmp_path):
  from configs import grid

  for job in jobs.of(grid.get_config('search'), tmp_path, None):
    for name in job.names:
      changed = runs.changed(job.c, name)
      if name.startswith('finetune_'):
        assert ('train.rate' in changed) == (name != 'finetune_0')
      if name in ('kd_0', 'kd_2'):
        assert changed.get('method.temperature') == (4.0 if name == 'kd_2' else None)
  common = env.settle(jobs.of(grid.get_config('quick'), tmp_path, None)[0].c)[0]
  assert not [key for key in runs.changed(common, 'augpro') if key.startswith('method.')]


def test_the_table_of_a_search_names_the_best_trial_and_what_it_was():
  row = lambda run, rate, value, alpha: dict(  # noqa: E731
    task='t', fraction=1.0, run=run, rate=rate, chosen='development', metrics=['accuracy'],
    scores=dict(development=dict(accuracy=value)), fields=dict(name='x', alpha=alpha, also={}),
  )  # fmt: skip
  rows = [row('a_0', 1e-4, [0.5, 0.6], 1.0), row('a_1', 3e-4, [0.7, 0.6], 2.0)]
  rows += [row('b_c_0', 1e-4, [0.9, 0.6], 1.0), row('b_c_1', 1e-4, [0.7, 0.6], 2.0)]
  lines = summary.searched(dict(rows=[row('teacher', 0, [1.0], 0.0), *rows])).lines
  assert [line[1:3] + line[4:5] for line in lines] == [['a', '2', 'a_1'], ['b_c', '2', 'b_c_0']]
  assert [line[3][:6] for line in lines] == ['0.5500', '0.7500']  # what the first trial has
  assert [line[6] for line in lines] == ['alpha 2, rate_of_training 0.0003', 'alpha 1']


def test_tasks_shares_and_seeds_have_folders_of_their_own(tmp_path):
  from configs import grid, kd

  c = grid.get_config('glue_low')
  c.grid.tasks, c.grid.methods, c.grid.fractions = 'rte,sst2', 'kd', (0.1, 1.0)
  where = lambda found: [str(job.workdir.relative_to(tmp_path)) for job in found]  # noqa: E731
  assert where(jobs.of(c, tmp_path, None)) == ['rte/train1', 'sst2/train0.1', 'sst2/train1']
  assert [job.fraction for job in jobs.of(c, tmp_path, None)] == [1, 0.1, 1]
  with pytest.raises(ValueError, match=r'--seeds=2 .* config.seeds=3'):
    jobs.of(c, tmp_path, 2)
  c.seeds = 1
  assert where(jobs.of(c, tmp_path, 2))[:3] == [
    'rte/train1/seed0', 'rte/train1/seed1', 'sst2/train0.1/seed0',
  ]  # fmt: skip
  single = jobs.of(kd.get_config('sst2'), tmp_path, None)  # a method's config: a grid of its task
  assert where(single) == ['seed0', 'seed1', 'seed2'] and single[1].c.seed == 1
  assert single[0].names == ['teacher', 'finetune', 'kd']


def test_wrong_grids_are_refused_by_the_key(tmp_path):
  from configs import grid, mlm

  c = grid.get_config('glue')
  c.grid.methods = 'kd,kdd'
  with pytest.raises(ValueError, match=r'config.grid.methods names kdd: none of'):
    jobs.of(c, tmp_path, None)
  c.grid.methods, c.grid.ood = 'kd', 'imbd'
  with pytest.raises(ValueError, match=r'config.grid.ood names imbd: none of imdb'):
    jobs.of(c, tmp_path, None)
  c.grid.tasks = ''
  with pytest.raises(ValueError, match=r'config.grid.tasks'):
    jobs.of(c, tmp_path, None)
  with pytest.raises(ValueError, match='trains no classifier'):
    jobs.of(mlm.get_config(), tmp_path, None)
  with pytest.raises(ValueError, match=r'config.grid.text names no text.*benchmarks/texts.py'):
    jobs.of(grid.get_config('text'), tmp_path, None)
  with pytest.raises(ValueError, match='quick, glue_low, glue, ood'):
    grid.get_config('glu')
  for field, name in (('of_task', 'rtee'), ('of_method', 'augpor')):
    c = grid.get_config('glue')
    with c.unlocked():
      c.grid[field][name] = dict(train=dict(epochs=9.0))
    with pytest.raises(ValueError, match=rf'config.grid.{field} names {name}: none of'):
      jobs.of(c, tmp_path, None)


def test_seeds_with_a_teacher_each_are_joined_in_order(tmp_path):
  row = lambda seed, value: dict(  # noqa: E731
    task='t', fraction=1.0, run='kd', seeds=[seed], kind='classes', metrics=['accuracy'],
    scores=dict(validation=dict(accuracy=[value])), ood={}, agreement={}, asked={},
    workdir=f's{seed}',
    curve=dict(step=[1, 2], accuracy=[[0.1, value]]), cost=dict(seconds=value, steps=2),
  )  # fmt: skip
  found = gather._joined([row(0, 0.5), row(1, 0.7)])
  assert found['seeds'] == [0, 1] and found['workdirs'] == ['s0', 's1']
  assert found['scores'] == dict(validation=dict(accuracy=[0.5, 0.7]))
  assert found['curve'] == dict(step=[1, 2], accuracy=[[0.1, 0.5], [0.1, 0.7]])
  assert found['cost']['seconds'] == pytest.approx(0.6)


@pytest.mark.parametrize('name, task, more', [('paws_qqp', 'qqp', ['f1']), ('imdb', 'sst2', [])])
def test_sets_of_a_task_that_has_f1_have_it(rng, name, task, more):
  own = ood.SETS[name]
  rows = sources.Table(['a'] * 40, None, rng.integers(0, 2, 40), np.arange(40))
  test = ood.Test(rows, np.array(own.merge), own.classes, None)
  logits = rng.normal(size=(3, 40, 2))
  found = scores._elsewhere(tasks.GLUE[task], test, logits)
  assert list(found) == ['accuracy', *more]
  for value, x in zip(found.get('f1', ()), logits, strict=False):
    assert value == pytest.approx(f1_score(rows.label, x.argmax(1)))


def test_seeds_that_learned_from_other_data_are_not_one_row(tmp_path):
  c = toy_grid.config(tmp_path, **{'grid.methods': 'finetune', 'seeds': 1})
  todo = jobs.of(c, tmp_path / 'w', 2)
  for job in todo:
    for name in job.names:
      (job.workdir / name).mkdir(parents=True)
      score = dict(task=job.task, fraction=job.fraction, run=name)
      (job.workdir / name / scores.FILE).write_text(json.dumps(score))
      found = f'9{len(job.workdir.name) and job.workdir.name[-1]} rows'
      (job.workdir / name / 'run.json').write_text(json.dumps(dict(data=dict(train=found))))
  with pytest.raises(
    ValueError, match=r"learned from other data than .*'90 rows' there, '91 rows'"
  ):
    gather.grid(todo, tmp_path / 'w', jobs.methods(c), 10)


def test_differences_are_those_of_the_written_predictions(done):
  _, workdir, grid = done
  decided = {}
  for name in ('kd', 'token_replace'):
    with np.load(workdir / 'own/train1' / name / 'predictions/validation.npz') as found:
      label, each = found['label'], found['logits'].argmax(-1)
    f1 = [f1_score(label, own, average='macro') for own in each]
    decided[name] = np.array([(each == label).mean(), np.mean(f1)])
  text = '\n'.join(cells.markdown(table) for table in tables.all_of(grid))
  assert 'judged on validation' in text
  for want, more in zip(decided['token_replace'] - decided['kd'], ('', ' f1_macro'), strict=True):
    got = grid['rows'][-1]['difference'][f'validation{more}']
    assert got['mean'] == pytest.approx(want)
    assert got['low'] <= got['mean'] <= got['high'] and f'{got["mean"]:+.4f} [' in text
  gains = summary.gains(grid)
  assert [name for name in gains.head if ' - ' in name] == [
    'own accuracy - kd',
    'own f1_macro - kd',
  ]
  assert all(gains.lines[-1])


def test_compilation_and_restarts_do_not_count_as_training(tmp_path):
  rows = [dict(step=step, examples_per_second=rate) for step, rate in ((10, 1), (20, 32), (24, 16))]
  rows.insert(2, {'step': 20, 'validation/accuracy': 0.5})
  (tmp_path / 'log.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  # 10 steps of 32 s count as 2 s each, the median; then 10 of 1 s and 4 of 2 s; of two seeds.
  found = scores._training(tmp_path, types.SimpleNamespace(batch_size=32), 2)
  assert found == dict(steps=24, seconds=pytest.approx((10 * 2 + 10 * 1 + 4 * 2) / 2))
