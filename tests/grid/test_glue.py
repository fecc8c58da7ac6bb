"""GLUE's test files: names, headers, labels and rows as the server asks for them."""

import zipfile

import numpy as np
import pytest

from kdjax import tasks
from kdjax.grid import glue


def _logits(task: str, n: int, rng) -> np.ndarray:
  return rng.normal(size=(n, tasks.GLUE[task].num_labels)).astype(np.float32)


@pytest.mark.parametrize(('task', 'split'), glue.FILES)
def test_what_is_written_passes_the_check(rng, task, split):
  _, count = glue.FILES[task, split]
  order = rng.permutation(count).astype(np.int32)
  text = glue.lines(task, _logits(task, count, rng), order)
  glue.check(task, split, text)


def test_labels_are_named_or_numbered_as_glue_does():
  one = lambda task, *logits: glue.lines(task, np.array([logits]), np.array([0])).split('\t')[-1]  # noqa: E731
  assert one('mnli', 0.0, 1.0, 0.0) == 'neutral\n' and one('ax', 0.0, 0.0, 1.0) == 'contradiction\n'
  assert one('rte', 0.0, 1.0) == 'not_entailment\n' and one('qnli', 1.0, 0.0) == 'entailment\n'
  assert one('wnli', 0.0, 1.0) == '1\n' == one('cola', 0.0, 1.0) and one('sst2', 1.0, 0.0) == '0\n'
  assert one('stsb', 5.7) == '5.000\n' and one('stsb', -0.1) == '0.000\n'
  assert one('stsb', 2.71828) == '2.718\n'


def test_rows_come_in_the_order_of_the_test_set():
  text = glue.lines('sst2', np.array([[0.0, 1], [1, 0], [1, 0]]), np.array([2, 0, 1]))
  assert text == 'index\tprediction\n0\t0\n1\t0\n2\t1\n'


def test_wrong_files_are_refused():
  rows = [f'{i}\t1\n' for i in range(146)]
  glue.check('wnli', 'test', 'index\tprediction\n' + ''.join(rows))
  for match, text in (
    ('first line', 'id\tprediction\n' + ''.join(rows)),
    ('145 rows', 'index\tprediction\n' + ''.join(rows[1:])),
    ('row 3 is', 'index\tprediction\n' + ''.join([*rows[:3], '3\tentailment\n', *rows[4:]])),
    ('row 0 is', 'index\tprediction\n' + ''.join([rows[1], rows[0], *rows[2:]])),
  ):
    with pytest.raises(ValueError, match=match):
      glue.check('wnli', 'test', text)


def test_a_model_of_all_tasks_gets_a_zip_and_one_of_few_does_not(rng, tmp_path):
  tasked = {}
  for task, split in glue.FILES:
    folder = tmp_path / ('mnli' if task == 'ax' else task) / 'kd' / 'predictions'
    folder.mkdir(parents=True, exist_ok=True)
    n = glue.FILES[task, split][1]
    name = 'ax' if task == 'ax' else split
    logits = np.stack([_logits(task, n, rng) for _ in range(2)])
    np.savez(folder / f'{name}.npz', logits=logits, index=np.arange(n), label=np.full(n, -1))
    tasked[task] = dict(task=task, run='kd', fraction=1.0, seeds=[3, 4], workdirs=[task])
  del tasked['ax']
  said = glue.write(dict(rows=list(tasked.values())), tmp_path)
  assert said == ['glue/train1/kd, 2 models: submission.zip, 11 files']
  with zipfile.ZipFile(tmp_path / 'glue/train1/kd/seed4/submission.zip') as archive:
    names = {f'{name}.tsv' for name, _ in glue.FILES.values()}
    assert set(archive.namelist()) == names and len(names) == 11
    for (task, split), (name, _) in glue.FILES.items():
      glue.check(task, split, archive.read(f'{name}.tsv').decode())
  few = [tasked[task] | dict(seeds=[3]) for task in ('rte', 'cola')]
  (line,) = glue.write(dict(rows=few), tmp_path / '..' / tmp_path.name)
  assert line.startswith('glue/train1/kd/seed3: 2 of 11 files, without AX')
