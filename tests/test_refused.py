"""What is wrong with a config or its data is said by name, before anything is trained."""

import pytest
import transformers

from kdjax import jobs
from tests import toy


def _bad(tmp_path, rng, match, method='kd', **changes):
  with pytest.raises((ValueError, OSError), match=match):
    jobs.prepare(toy.config(method, tmp_path, rng, **changes), tmp_path / 'work')
  assert not (tmp_path / 'work' / 'teacher').exists()


def test_bad_input_is_named_before_training(rng, tmp_path):
  bad = lambda match, **changes: _bad(tmp_path, rng, match, **changes)  # noqa: E731
  bad("task 'sst3' is none of docs, own, cola", **{'task.name': 'sst3'})
  bad("no column 'review'.*'text', 'label'", **{'data.text': 'review'})
  bad('nowhere.csv', **{'data.train': str(tmp_path / 'nowhere.csv')})
  bad('config.compare names kdd: none of .*augpro', compare='kdd')
  bad('must be at least 1', **{'train.batch_size': 0})
  bad('config.data.buckets is', **{'data.buckets': ('often',)})
  bad("config.train.nonfinite='ignore' is none of stop, skip", **{'train.nonfinite': 'ignore'})
  bad("config.train.remat='all' is none of none, dots, full", **{'train.remat': 'all'})
  bad("config.train.prng='philox' is none of threefry2x32, rbg", **{'train.prng': 'philox'})
  bad("config.train.dtype='float16' is none of", **{'train.dtype': 'float16'})
  for changes in (dict(seeds=2), {'data.max_length': 11}, {'data.buckets': (7,)}):
    bad('cudnn.* is of one seed and of even lengths', **changes, **{'train.attention': 'cudnn'})
  bad('96 training rows do not fill one batch of 128', **{'train.batch_size': 128})
  bad("layers like 0,3,5|pick 'middle'", **{'student.pick': 'middle'})
  bad('cannot pick 9 layers from a teacher of 2', **{'student.layers': 9})
  bad('neither a folder', **{'teacher.init': str(tmp_path / 'no model')})
  bad('config.train.keep=0 must be at least 1', **{'train.keep': 0})
  bad('pos: named twice by config.task.labels', **{'task.labels': 'neg,pos,pos'})
  bad("task.kind 'ranking' is none of", **{'task.kind': 'ranking'})
  bad('metrics.*bleu.* accuracy, f1,', **{'task.metrics': 'bleu'})
  bad(r"metrics \['pearson'\] are none of accuracy", **{'task.metrics': 'accuracy,pearson'})
  scores = {'task.kind': 'regression'}
  bad(r"metrics \['accuracy'\] are none of pearson", **scores, **{'task.metrics': 'accuracy'})
  bad('of mse lower is better: name', **scores, **{'task.metrics': 'mse,pearson'})
  bad(r"student: width=8, heads=1 are sizes .*init='teacher'", **{
    'student.width': 8, 'student.heads': 1})  # fmt: skip
  bad(r'baselines.kd.temperature=4.0 .* set config.method.temperature', **{
    'baselines.kd.temperature': 4.0})  # fmt: skip
  short = dict(method='backward_kd', **{'method.round': 1.0})
  bad('config.method.round=1.0 is 6 steps and the run has 4', **short)
  bad('divisible', **{'student.init': 'random', 'student.width': 17})


def test_bad_rows_are_named_with_file_and_row(rng, tmp_path):
  c = toy.config('kd', tmp_path, rng, **{'task.labels': 'neg,pos'})
  path = tmp_path / 'train.csv'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([*lines[:4], 'fine film,maybe', *lines[4:]]))
  with pytest.raises(ValueError, match=r"train.csv.*row 4.*'maybe'"):
    jobs.prepare(c, tmp_path / 'work')
  path.write_text('text,label\n')
  with pytest.raises(ValueError, match='no rows'):
    jobs.prepare(c, tmp_path / 'work')
  with c.unlocked():
    c.task.kind = 'regression'
  path.write_text('text,label\n' + 'a film,inf\n' * 40)
  with pytest.raises(ValueError, match=r'train.csv.*row 1.*inf'):
    jobs.prepare(c, tmp_path / 'work')


def test_a_teacher_of_other_classes_is_refused(rng, tmp_path):
  three = toy.model(tmp_path / 'three', labels=3)
  changes = {'teacher.init': str(three), 'teacher.finetune': False}
  with pytest.raises(ValueError, match=r'3.*2|2.*3'):
    jobs.prepare(toy.config('kd', tmp_path, rng, **changes), tmp_path / 'work')


def test_a_teacher_that_numbers_the_classes_otherwise_is_refused(rng, tmp_path):
  c = toy.config('kd', tmp_path, rng, **{'teacher.finetune': False})
  base = tmp_path / 'base'
  config = transformers.AutoConfig.from_pretrained(base)
  config.id2label, config.label2id = {0: 'pos', 1: 'neg'}, {'pos': 0, 'neg': 1}
  config.save_pretrained(base)
  with pytest.raises(ValueError, match=r"\['pos', 'neg'\], the data \['neg', 'pos'\]"):
    jobs.prepare(c, tmp_path / 'work')


def test_an_unwritable_workdir_is_refused(rng, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='cannot write to --workdir'):
    jobs.prepare(toy.config('kd', tmp_path, rng), tmp_path / 'file' / 'work')
