"""The modes, from files on disk to a folder that reads back, at toy size."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import kdjax
from kdjax import dry, env, exports, inference, jobs, net, report, runs, staging
from kdjax.models import hf
from tests import tiny, toy

RUNS = ('teacher', 'finetune', 'kd', 'augpro')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(config, workdir, rows) of one finished run with everything on."""
  folder = tmp_path_factory.mktemp('toy')
  c = toy.config('augpro', folder, np.random.default_rng(0))
  rows = jobs.run(jobs.prepare(c, folder / 'work'))
  return c, folder / 'work', rows


def test_a_run_leaves_what_a_user_looks_for(run):
  _, workdir, rows = run
  assert tuple(rows) == RUNS
  for name, row in rows.items():
    assert 0 <= row['validation']['accuracy'] <= 1 and row['examples_per_second'] > 0
    log = [json.loads(line) for line in (workdir / name / 'log.jsonl').read_text().splitlines()]
    steps = [r['step'] for r in log if 'student/loss' in r]
    assert steps == [2, 4]
    assert {'config.json', 'model.safetensors', 'README.md'} <= {
      p.name for p in (workdir / name / 'model').iterdir()
    }
  assert (workdir / 'config.json').exists() and (workdir / 'versions.json').exists()
  assert 'augpro' in (workdir / 'results.md').read_text()
  log = (workdir / 'augpro' / 'log.jsonl').read_text()
  assert all(f'student/{m}' in log for m in ('moved', 'third', 'relabelled', 'augmented'))


def test_a_result_has_what_was_best_and_what_came_last(run):
  _, workdir, _ = run
  for name in RUNS:
    result = json.loads((workdir / name / 'result.json').read_text())
    log = [json.loads(line) for line in (workdir / name / 'log.jsonl').read_text().splitlines()]
    rated = [row['validation/accuracy'] for row in log if 'validation/accuracy' in row]
    assert result['last']['accuracy'] == rated[-1]
    assert result['metrics']['accuracy'] == max(rated)


def test_checkpoints_hold_no_teacher(run):
  _, workdir, _ = run
  for kind in ('last', 'best'):
    saved = ' '.join(str(p) for p in (workdir / 'kd' / 'checkpoints' / kind).rglob('*'))
    assert saved and 'teacher' not in saved


def test_the_student_is_smaller_and_named_as_the_data_names_its_classes(run):
  _, workdir, rows = run
  assert rows['kd']['parameters'] < rows['teacher']['parameters']
  clf = kdjax.load(workdir / 'augpro' / 'model', max_length=12)
  assert clf.labels == ('neg', 'pos')
  out = clf(['good film', 'the plot was bad and dull', 'it is rich'])
  assert out.shape == (3, 2)
  np.testing.assert_allclose(out.sum(1), 1, rtol=1e-5)
  assert clf([]).shape == (0, 2)


def test_transformers_reads_the_student_and_agrees(run):
  torch = pytest.importorskip('torch')
  import transformers

  _, workdir, _ = run
  folder = workdir / 'augpro' / 'model'
  model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  texts = ['good film', 'the plot was bad and dull and it is weak']
  with torch.no_grad():
    want = model(**tokenizer(texts, padding=True, return_tensors='pt')).logits.softmax(-1).numpy()
  np.testing.assert_allclose(kdjax.load(folder, max_length=12)(texts), want, atol=1e-5)
  assert model.config.id2label == {0: 'neg', 1: 'pos'}


def test_a_card_says_data_teacher_method_config_numbers_and_how_to_load_it(run):
  from huggingface_hub import ModelCard

  c, workdir, _ = run
  card = ModelCard.load(workdir / 'augpro' / 'model' / 'README.md')
  front, text = card.data.to_dict(), card.text
  assert front['library_name'] == 'transformers' and front['pipeline_tag'] == 'text-classification'
  assert 'knowledge-distillation' in front['tags'] and 'base_model' not in front  # a folder is none
  result, other = card.data.eval_results
  assert (
    other.metric_type == 'f1_macro'
    and result.metric_type == 'accuracy'
    and result.dataset_split == 'validation'
  )
  best = json.loads((workdir / 'augpro' / 'result.json').read_text())
  teacher = json.loads((workdir / 'teacher' / 'result.json').read_text())
  assert result.metric_value == best['metrics']['accuracy']
  scores = f'accuracy {result.metric_value:.4f}, f1_macro {other.metric_value:.4f}'
  assert f'validation: {scores} (seed 0, step {best["best_step"]} of 4' in text
  assert f'teacher: {c.teacher.init}, accuracy {teacher["metrics"]["accuracy"]:.4f}' in text
  assert '96 training rows' in text and 'method: AugPro (ICLR 2023)' in text
  changed = text.partition('## Config')[2]
  assert '`train.batch_size`: `16`' in changed and '`student.layers`: `1`' in changed
  assert 'train.rate' not in changed and 'method.' not in changed and 'seed`' not in changed
  code = text.partition('```python')[2].partition('```')[0]
  assert "clf = kdjax.load('FOLDER')" in code and 'AutoModelForSequenceClassification' in code
  own = code.partition('import transformers')[0].replace(
    'FOLDER', str(workdir / 'augpro' / 'model')
  )
  exec(own)  # as it stands
  teacher = ModelCard.load(workdir / 'teacher' / 'model' / 'README.md')
  assert 'distillation' not in teacher.content.partition('# ')[0] and 'fine-tuned' in teacher.text


def test_a_card_links_to_published_teachers_alone(tmp_path):
  assert report._published('google-bert/bert-base-uncased')
  assert not any(map(report._published, ('minilm', 'teacher', str(tmp_path), '../a/b')))


def test_nothing_finished_is_done_again(run, monkeypatch):
  c, workdir, rows = run
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*.safetensors')}
  monkeypatch.setattr('kdjax.train.fit', lambda *a, **k: pytest.fail('trained again'))
  again = jobs.run(jobs.prepare(c, workdir))
  assert {p: p.stat().st_mtime_ns for p in workdir.rglob('*.safetensors')} == before
  for name in rows:
    assert again[name]['validation'] == rows[name]['validation']


def test_the_workdir_of_another_run_is_refused_naming_the_keys(run):
  c, workdir, _ = run
  other = c.copy_and_resolve_references()
  other.train.rate = 0.5
  with pytest.raises(ValueError, match=r'train.rate: 0.0003 there, 0.5 now.*or --fork'):
    jobs.prepare(other, workdir)
  assert 'teacher.cache' in runs.asked(c, 'kd') and 'teacher.cache' not in runs.asked(c, 'teacher')


def test_with_fork_runs_of_another_config_are_set_aside_and_the_rest_stands(
  run, tmp_path, monkeypatch, capsys
):
  c, whole, _ = run
  workdir = shutil.copytree(whole, tmp_path / 'work')
  weights = {name: (whole / name / 'model/model.safetensors').read_bytes() for name in RUNS}
  there = lambda name: (workdir / name / 'model/model.safetensors').read_bytes()  # noqa: E731
  folders = lambda: {p.name for p in workdir.iterdir()}  # noqa: E731
  before = folders()

  other = c.copy_and_resolve_references()
  other.train.rate, other.compare, good = 0.5, '', other.data.validation
  other.data.validation = str(tmp_path / 'nowhere.csv')
  with pytest.raises((ValueError, OSError), match='nowhere'):
    jobs.prepare(other, workdir, fork=True)
  other.data.validation = good
  dry.show(jobs.prepare(other, workdir, str(tmp_path / 'cache'), fork=True), timed=False)
  said = capsys.readouterr().out
  assert 'the run there (train.rate: 0.0003 there, 0.5 now) would be set aside' in said
  assert 'teacher: finished' in said and folders() == before  # nor was anything set aside

  jobs.run(jobs.prepare(other, workdir, fork=True))
  assert folders() == before | {'augpro.1'}
  assert there('augpro.1') == weights['augpro'] != there('augpro')
  for name in ('teacher', 'kd'):  # what fits, and what nobody asked for
    assert there(name) == weights[name]
  jobs.prepare(other, workdir, fork=True)
  assert folders() == before | {'augpro.1'}

  other.teacher.rate, other.compare = 0.5, 'finetune'  # whoever learned from it was another too
  jobs.prepare(other, workdir, fork=True)
  assert before - folders() == {'teacher', 'finetune', 'augpro'}
  assert folders() - before == {'teacher.1', 'finetune.1', 'augpro.1', 'augpro.2'}


def test_a_student_reads_as_much_of_a_text_as_in_training(run, rng):
  _, workdir, _ = run
  texts = [' '.join(rng.choice(toy.WORDS, 25)) for _ in range(8)]
  said = lambda **how: kdjax.load(workdir / 'augpro' / 'model', **how)(texts)  # noqa: E731
  np.testing.assert_array_equal(said(), said(max_length=12))
  assert not np.allclose(said(), said(max_length=32), atol=1e-6)


def test_data_that_changed_in_a_file_are_noticed(run, tmp_path, capsys):
  c, whole, _ = run
  workdir = shutil.copytree(whole, tmp_path / 'work')
  good = {path: path.read_text() for path in map(pathlib.Path, (c.data.train, c.data.validation))}
  train = pathlib.Path(c.data.train)
  try:
    train.write_text(good[train].rstrip().rpartition('\n')[0] + '\n')
    said = r"teacher learned from other data .*train: '96 rows, \w+' there, '95 rows, .*or --fork"
    for cache in ('', str(tmp_path / 'cache')):
      with pytest.raises(ValueError, match=said):
        jobs.prepare(c, workdir, cache)
    for path, text in good.items():  # as many rows, and all numbers of classes turned round
      path.write_text(text.replace(',pos', ',good'))
    with pytest.raises(ValueError, match="classes: 'neg, pos' there, 'good, neg' now"):
      jobs.prepare(c, workdir)
    capsys.readouterr()
    dry.show(jobs.prepare(c, workdir, str(tmp_path / 'cache'), fork=True), timed=False)
    said = capsys.readouterr().out
    assert said.count('would be set aside') == len(RUNS) and 'would be reused' not in said
    plan = jobs.prepare(c, workdir, fork=True)
    assert {f'{name}.1' for name in RUNS} <= {path.name for path in workdir.iterdir()}
    assert not any((workdir / name).exists() for name in RUNS)
    # The teacher that is set aside is nobody's any more.
    fresh = jobs.prepare(c, tmp_path / 'fresh')
    params = (net.split(each.teacher.module)[1] for each in (plan, fresh))
    assert jax.tree.all(jax.tree.map(np.array_equal, *params))
  finally:
    for path, text in good.items():
      path.write_text(text)
  jobs.prepare(c, whole)


def test_a_run_that_was_killed_goes_on_and_ends_the_same(run, tmp_path, monkeypatch):
  c, workdir, _ = run
  plan = jobs.prepare(c, tmp_path)
  from kdjax import checkpoint

  save = checkpoint.Store.save

  def dies(self, step, *rest, **more):
    if step == 4 and 'augpro' in str(tmp_path) + str(self._manager.directory):
      raise KeyboardInterrupt
    save(self, step, *rest, **more)

  monkeypatch.setattr(checkpoint.Store, 'save', dies)
  with pytest.raises(KeyboardInterrupt):
    jobs.run(plan)
  monkeypatch.setattr(checkpoint.Store, 'save', save)
  jobs.run(jobs.prepare(c, tmp_path))
  for name in ('teacher', 'augpro'):
    one, two = (net.split(hf.load(d / name / 'model')[0])[1] for d in (workdir, tmp_path))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
    assert tiny.logged(workdir / name) == tiny.logged(tmp_path / name)


def test_eval_predict_and_export_read_the_trained_student(run, capsys):
  c, workdir, rows = run
  scores = inference.evaluation(c, workdir)
  np.testing.assert_allclose(
    scores['validation']['accuracy'], rows['augpro']['validation']['accuracy']
  )
  path = inference.prediction(c, workdir)
  lines = path.read_text().splitlines()
  assert lines[0] == 'index,text,prediction,p_neg,p_pos' and len(lines) == 41
  own = c.copy_and_resolve_references()
  own.data.train, own.eval.data = '', c.data.validation  # a model, and rows: nothing else is read
  beside = inference.prediction(own, workdir).read_text().splitlines()
  assert beside[0] == 'text,label,prediction,p_neg,p_pos'
  assert [row.split(',')[2:] for row in beside[1:]] == [row.split(',')[2:] for row in lines[1:]]
  target = exports.export(c, workdir)
  one, two = (net.split(hf.load(d)[0])[1] for d in (target, workdir / 'augpro' / 'model'))
  assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
  with pytest.raises(ValueError, match='not empty'):
    exports.export(c, workdir)
  capsys.readouterr()


def test_a_dry_run_trains_and_writes_nothing(rng, tmp_path, capsys):
  c = toy.config('kd', tmp_path, rng)
  dry.show(jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache')))
  said = capsys.readouterr().out
  assert not (tmp_path / 'work').exists()
  assert '96 rows' in said and 'teacher: 4 steps' in said and '[CLS]' in said


def test_lengths_are_chosen_by_run_and_a_run_goes_on_with_its_own(
  rng, tmp_path, monkeypatch, caplog
):
  class Halt(Exception):
    pass

  def fit(method, params, data, score, c, buckets, *rest):
    seen.append(buckets)
    raise Halt

  def begin(workdir):
    with pytest.raises(Halt):
      jobs.trained(jobs.prepare(c, workdir))

  monkeypatch.setattr('kdjax.train.fit', fit)
  monkeypatch.setattr('kdjax.data.lengths._PRICE', 0)
  caplog.set_level('INFO', 'kdjax')
  seen, work = [], tmp_path / 'work'
  c = toy.config('kd', tmp_path, rng, **{'data.buckets': ('auto',)})
  begin(work)
  assert seen == [(8, 12)] and 'teacher: lengths 8, 12: 1.' in caplog.text
  assert json.loads((work / 'teacher' / 'run.json').read_text())['lengths'] == [8, 12]
  begin(work)
  monkeypatch.setattr('kdjax.data.lengths._PRICE', 10**9)
  begin(work)  # chosen now, they would be others
  assert seen == [(8, 12)] * 3
  begin(tmp_path / 'other')
  assert seen[-1] == (12,)
  c.data.buckets = (8,)
  with pytest.raises(ValueError, match=r"data.buckets: \['auto'\] there, \[8, 12\] now"):
    jobs.prepare(c, work)


def test_chosen_lengths_are_of_a_runs_own_steps_and_of_no_seed(rng, tmp_path, monkeypatch):
  fields = {'data.buckets': ('auto',), 'train.steps': 40, 'teacher.steps': 1}
  c = toy.config('kd', tmp_path, rng, **fields)
  plan = jobs.prepare(c, tmp_path / 'work', str(tmp_path / 'cache'))
  monkeypatch.setattr('kdjax.data.lengths._PRICE', 200)
  assert staging.lengths_of(plan, 'kd') == (8, 12) and staging.lengths_of(plan, 'teacher') == (12,)
  plan.c.seed, plan.c.seeds = 7, 3
  assert staging.lengths_of(plan, 'kd') == (8, 12)
  assert plan.scoring[1] == (12,)


def test_a_run_on_a_split_mesh_trains_scores_and_predicts(rng, tmp_path, capsys, caplog):
  mesh = {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.tensor': 2, 'mesh.whole': 'student'}
  c = toy.config('kd', tmp_path, rng, **mesh, compare='')
  plan = jobs.prepare(c, tmp_path / 'work')
  dry.show(plan, timed=False)
  said = capsys.readouterr().out
  table = 'devices: data 1 x fsdp 2 x tensor 2 = 4 x cpu'
  assert f'teacher, {table}' in said and f'kd, {table}' in said
  assert '  optimizer of teacher  [fsdp, tensor] ' in said.split('kd, devices')[0]
  assert '  optimizer of student  nothing: whole ' in said.split('kd, devices')[1]
  caplog.set_level('INFO', 'kdjax')
  rows = jobs.run(plan)
  assert caplog.text.count(table) == 2
  scores = inference.evaluation(c, tmp_path / 'work')
  assert scores['validation'] == pytest.approx(rows['kd']['validation'])
  assert len(inference.prediction(c, tmp_path / 'work').read_text().splitlines()) == 41
  # The same folder on one device: what is finished is read, whatever it was laid out for.
  c.mesh.update(dict(data=1, fsdp=1, tensor=1, whole=''))
  again = jobs.run(jobs.prepare(c, tmp_path / 'work'))
  for name in ('teacher', 'kd'):
    assert again[name]['validation'] == pytest.approx(rows[name]['validation'])


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A folder whose teacher and generator are trained by the first test that needs them."""
  return tmp_path_factory.mktemp('shared')


STEPS = {f'{who}.steps': 2 for who in ('train', 'teacher', 'generator')}


@pytest.mark.parametrize('name', tiny.config_names())
def test_every_config_is_ready_to_run(shared, name):
  c = toy.config(name, shared, np.random.default_rng(0), **STEPS, compare='')
  assert jobs.prepare(c, shared / 'ready').env.student is not None


# One player, views, terms, two and three players, and no student at all.
RUN = ('augpro_codir', 'cilda', 'comkd', 'backward_kd', 'mlm')


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=() if n in RUN else pytest.mark.slow) for n in tiny.config_names()],
)
def test_configs_run_two_steps(shared, name):
  c = toy.config(name, shared, np.random.default_rng(0), **STEPS, compare='')
  masked = name in ('codir_pre', 'mlm_kd')  # a teacher of another kind
  rows = jobs.run(jobs.prepare(c, shared / ('masked' if masked else 'work')))
  assert set(rows) == ({'generator'} if name == 'mlm' else {'teacher', name})


def test_class_level_distillation_works_across_tokenizers(rng, tmp_path):
  other = toy.model(tmp_path / 'student', words=[*reversed(toy.WORDS), 'extra'])
  changes = {'student.init': str(other), 'train.steps': 2, 'teacher.steps': 2, 'compare': ''}
  plan = jobs.prepare(toy.config('kd', tmp_path, rng, **changes), tmp_path / 'work')
  assert 'disagree' in plan.env.mismatch
  assert plan.data['train'].teacher is not None
  rows = jobs.run(plan)
  # Each model was trained and scored on ids of its own: alone, on text, it scores the same.
  table = plan.text.splits['validation']
  for name in ('teacher', 'kd'):
    clf = kdjax.load(tmp_path / 'work' / name / 'model', max_length=12)
    want = clf.score(table, plan.spec)['accuracy']
    assert rows[name]['validation']['accuracy'] == pytest.approx(want)
  with pytest.raises(ValueError, match='one text for teacher and student'):
    jobs.prepare(toy.config('augpro', tmp_path, rng, **changes), tmp_path / 'work2')


def test_a_finished_teacher_is_taken_as_it_is(run, rng, tmp_path):
  _, workdir, rows = run
  changes = {'teacher.finetune': False, 'teacher.init': str(workdir / 'teacher' / 'model')}
  changes |= {'train.steps': 2, 'compare': ''}
  c = toy.config('kd', tmp_path, rng, **changes)
  out = jobs.run(jobs.prepare(c, tmp_path / 'work'))
  assert set(out) == {'teacher', 'kd'} and not (tmp_path / 'work' / 'teacher').exists()
  assert out['teacher']['parameters'] == rows['teacher']['parameters']


def test_regression_and_label_sets_go_end_to_end(rng, tmp_path):
  c = toy.config('augpro', tmp_path, rng, **{'train.steps': 2, 'teacher.steps': 2, 'compare': 'kd'})
  with c.unlocked():
    for kind, value in (('regression', lambda r: f'{r.random():.3f}'), ('multilabel', None)):
      c.task.kind = kind
      for split in ('train', 'validation'):
        path = tmp_path / f'{split}.csv'
        texts = [text for text, _ in toy.rows(rng, 64)]
        label = value or (lambda r: '|'.join(n for n in ('x', 'y', 'z') if r.random() < 0.5))
        path.write_text('text,label\n' + ''.join(f'{text},{label(rng)}\n' for text in texts))
      rows = jobs.run(jobs.prepare(c, tmp_path / kind))
      metric = dict(regression='pearson', multilabel='f1_micro')[kind]
      assert np.isfinite(rows['augpro']['validation'][metric])
      out = kdjax.load(tmp_path / kind / 'augpro' / 'model', max_length=12)(['good film'])
      assert out.shape == ((1,) if kind == 'regression' else (1, 3))


def test_settling_fills_what_depends_on_the_task(rng, tmp_path):
  from configs import kd

  c, spec = env.settle(kd.get_config())
  assert (spec.name, c.data.source) == ('docs', 'docs')
  assert (c.data.max_length, c.data.buckets) == (32, ('auto',))
  c, spec = env.settle(kd.get_config('sst2'))
  assert (c.data.source, c.data.max_length, c.data.buckets) == ('hub', 128, ('auto',))
  c, spec = env.settle(toy.config('kd', tmp_path, rng))
  assert (spec.name, c.data.source, c.data.buckets) == ('own', 'files', (12,))
