"""A model as a function: at once for a few, or in batches; and for files of rows."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import kdjax
from kdjax import predict, rowwise
from kdjax.data import blocks, files
from tests import toy
from tests.data import data_config


@pytest.mark.parametrize('labels', [1, 3])
def test_at_once_answers_as_a_call_and_compiles_nothing_that_was_not_warm(tmp_path, rng, labels):
  clf = kdjax.load(toy.model(tmp_path, labels=labels, layers=1), batch_size=8)
  shapes = clf.warm()
  assert {length for _, length in shapes} == {16, 32}
  assert max(shapes)[0] == 8 and clf._forward._cache_size() == len(shapes)
  text = lambda: ' '.join(rng.choice(toy.WORDS, rng.integers(0, 40)))  # noqa: E731
  for n in (1, 5, 8, 19):
    for inputs in ([text() for _ in range(n)], [(text(), text()) for _ in range(n)]):
      found = clf.at_once(inputs)
      assert found.shape == ((n,) if labels == 1 else (n, labels))
      assert clf._forward._cache_size() == len(shapes)
      np.testing.assert_allclose(found, clf(inputs), atol=1e-5, rtol=0)


def test_what_cannot_be_read_is_refused(tmp_path):
  where = toy.model(tmp_path, layers=1)
  with pytest.raises(ValueError, match="'dull' is one text: a list of texts is asked for"):
    kdjax.load(where)('dull')
  with pytest.raises(ValueError, match=r'^max_length is 2; special tokens and one token of text'):
    kdjax.load(where, max_length=2)
  config = json.loads((where / 'config.json').read_text())
  (where / 'config.json').write_text(json.dumps(config | dict(kdjax_max_length='long')))
  with pytest.raises(ValueError, match="kdjax_max_length is 'long', not a number of tokens"):
    kdjax.load(where)


ODD = [
  ('a "quoted", good film', 'x', 1),
  ('bad\nplot, and\tdull', '', 2),
  ('ünï 😀 good', 'null', 3),
  ('', 'NA', 4),
  ('the film was rich and strong', '01', 5),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return str(toy.model(tmp_path_factory.mktemp('model'), layers=1))


def _odd(path):
  columns = dict(text=[r[0] for r in ODD], note=[r[1] for r in ODD], n=[r[2] for r in ODD])
  if path.suffix == '.parquet':
    return data_config.parquet(path, **columns)
  rows = [dict(zip(columns, row, strict=True)) for row in ODD]
  if path.suffix == '.jsonl':
    return data_config.jsonl(path, rows)
  with path.open('w', encoding='utf-8-sig', newline='') as f:  # with a mark, as Excel writes it
    out = csv.DictWriter(f, columns, delimiter=',' if path.suffix == '.csv' else '\t')
    out.writeheader()
    out.writerows(rows)
  return path


def _main(capsys, *argv):
  predict.main([str(a) for a in argv])
  return capsys.readouterr()


def _fails(capsys, *argv):
  with pytest.raises(SystemExit) as caught:
    predict.main([str(a) for a in argv])
  said = str(caught.value)
  assert said.startswith('error: ') and '\n' not in said
  return said


def test_predictions_stand_beside_the_rows_of_any_kind_of_file(tmp_path, folder, capsys):
  want = kdjax.load(folder)([row[0] for row in ODD])
  for given in ('csv', 'jsonl', 'parquet'):
    data = _odd(tmp_path / f'odd.{given}')
    for wanted in ('csv', 'jsonl', 'parquet'):
      out = tmp_path / f'{given}.{wanted}'
      said = _main(capsys, folder, f'--data={data}', f'--out={out}')
      assert said.out == f'5 rows: {out}\n'
      found = files.read(out)
      before = files.read(data)
      assert list(found) == [*before, 'prediction', 'p_LABEL_0', 'p_LABEL_1']
      for name, values in before.items():
        as_text = wanted == 'csv'
        assert found[name] == [str(v) if as_text else v for v in values]
      p = np.array([[float(v) for v in found[f'p_LABEL_{k}']] for k in (0, 1)]).T
      np.testing.assert_allclose(p, want, atol=1e-5)
      assert found['prediction'] == [f'LABEL_{k}' for k in want.argmax(1)]
  assert not list(tmp_path.glob('*.parts')) and not list(tmp_path.glob('*.tmp'))


def test_a_lone_carriage_return_is_no_end_of_a_row(tmp_path, folder, capsys):
  data, out = tmp_path / 'a.jsonl', tmp_path / 'b.csv'
  texts = ['one\rtwo', 'three', 'four\r\nfive']
  data.write_text(''.join(json.dumps(dict(text=text)) + '\n' for text in texts))
  _main(capsys, folder, f'--data={data}', f'--out={out}')
  assert files.read(out)['text'] == texts
  with out.open(encoding='utf8', newline='') as file:
    assert [row[0] for row in csv.reader(file)] == ['text', *texts]


def test_what_parquet_cannot_hold_is_said_in_a_line(tmp_path, folder, capsys):
  data, out = tmp_path / 'a.jsonl', tmp_path / 'b.parquet'
  data.write_text('{"text": "one", "meta": {}}\n')
  said = _fails(capsys, folder, f'--data={data}', f'--out={out}')
  assert 'b.parquet: ' in said and 'meta' in said and 'another extension' in said
  assert not out.exists() and not list(tmp_path.glob('*.parts'))


LATE = dict(
  parquet=([dict(text='a', id=1), dict(text='b', id='x')], 'another extension'),
  whole=([dict(text='a', id=n) for n in (1, 2**60, None, 0.5)], f'{2**60}, beside fractions'),
  empty=([dict(text='a', id=[{}])], 'another extension'),
  tsv=([dict(text='a'), dict(text='b'), dict(text='c\td')], "row 3, column 'text'"),
)


@pytest.mark.parametrize('kind', LATE)
def test_what_a_format_cannot_hold_is_known_before_anything_is_computed(
  tmp_path, folder, monkeypatch, kind
):
  rows, said = LATE[kind]
  data, out = (
    data_config.jsonl(tmp_path / 'a.jsonl', rows),
    tmp_path / ('b.tsv' if kind == 'tsv' else 'b.parquet'),
  )
  monkeypatch.setattr(rowwise, 'PART', 1)
  monkeypatch.setattr(predict.Classifier, 'rows', lambda *args: pytest.fail('computed'))
  with pytest.raises(blocks.Unfit, match=said):
    predict.file(kdjax.load(folder), str(folder), data, 'text', '', out)
  assert not out.exists() and not list(tmp_path.glob('*.parts'))


def test_parts_outlive_a_file_that_cannot_be_read_for_a_while(tmp_path, folder, monkeypatch):
  rows = [dict(text=f'film {n}') for n in range(6)]
  data, out = data_config.jsonl(tmp_path / 'a.jsonl', rows), tmp_path / 'b.csv'
  clf, read, computed = kdjax.load(folder), blocks.read, []
  monkeypatch.setattr(rowwise, 'PART', 2)
  monkeypatch.setattr(clf, 'rows', lambda *args, f=clf.rows: (computed.append(1), f(*args))[1])

  def fails(path, size):
    for n, block in enumerate(read(path, size)):
      if n == 2 and computed:
        raise ValueError(f'{path}: Input/output error')
      yield block

  monkeypatch.setattr(blocks, 'read', fails)
  with pytest.raises(ValueError, match='Input/output'):
    predict.file(clf, str(folder), data, 'text', '', out)
  monkeypatch.setattr(blocks, 'read', read)
  computed.clear()
  assert predict.file(clf, str(folder), data, 'text', '', out) == 6
  assert len(computed) == 1 and len(files.read(out)['text']) == 6


@pytest.mark.parametrize('change, said', [
  (dict(problem_type='regression'), '3 scores a text'),
  (dict(id2label={0: 'a', 1: 'b', 2: 'a'}), "one name: 'a', 'b', 'a'"),
])  # fmt: skip
def test_several_scores_and_classes_of_one_name_are_refused(tmp_path, change, said):
  where = toy.model(tmp_path / 'model', labels=3)
  config = json.loads((where / 'config.json').read_text())
  (where / 'config.json').write_text(json.dumps(config | change))
  with pytest.raises(ValueError, match=said):
    kdjax.load(where)


def test_tsv_has_no_quotes_and_says_so_of_what_it_cannot_hold(tmp_path, folder, capsys):
  data = tmp_path / 'a.tsv'
  data.write_text('id\ttext\n1\t"good\n2\tbad, plot\n')
  _main(capsys, folder, f'--data={data}', f'--out={tmp_path / "b.tsv"}')
  lines = (tmp_path / 'b.tsv').read_text().splitlines()
  assert [line.split('\t')[:2] for line in lines] == [
    ['id', 'text'],
    ['1', '"good'],
    ['2', 'bad, plot'],
  ]
  odd, out = _odd(tmp_path / 'odd.csv'), tmp_path / 'c.tsv'
  said = _fails(capsys, folder, f'--data={odd}', f'--out={out}')
  assert "c.tsv: row 2, column 'text'" in said and 'another extension' in said
  assert not out.exists() and not list(tmp_path.glob('*.parts'))


@pytest.mark.parametrize('kind', ['regression', 'multi_label_classification'])
def test_scores_label_sets_and_pairs(tmp_path, rng, capsys, kind):
  labels = 1 if kind == 'regression' else 3
  folder = str(toy.model(tmp_path / 'm', labels=labels, layers=1, problem_type=kind))
  pairs = [(a, b) for (a, _), (b, _) in zip(toy.rows(rng, 9), toy.rows(rng, 9), strict=True)]
  data = data_config.jsonl(tmp_path / 'a.jsonl', [dict(one=a, two=b) for a, b in pairs])
  out = tmp_path / 'b.jsonl'
  _main(capsys, folder, f'--data={data}', f'--out={out}', '--text=one', '--pair=two', '--prefix=s_')
  want, found = kdjax.load(folder)(pairs), files.read(out)
  if labels == 1:
    assert list(found) == ['one', 'two', 's_score']
    np.testing.assert_allclose(found['s_score'], want, atol=1e-5)
    return
  p = np.array([found[f's_p_LABEL_{k}'] for k in range(3)]).T
  np.testing.assert_allclose(p, want, atol=1e-5)
  on = ['|'.join(f'LABEL_{k}' for k in range(3) if row[k] > 0.5) for row in want]
  assert found['s_prediction'] == on


def test_what_is_wrong_is_said_in_a_line_before_anything_is_computed(tmp_path, folder, capsys):
  rows = [dict(text='good')] * 3000 + [dict(text=None)]
  data = data_config.jsonl(tmp_path / 'a.jsonl', rows)
  out = tmp_path / 'b.csv'
  no = lambda *argv: _fails(capsys, folder, *argv)  # noqa: E731
  assert "a.jsonl: column 'text': row 3001 is None, not text" in no(
    f'--data={data}', f'--out={out}'
  )
  assert "--text is one of 'text'" in no(f'--data={data}', f'--out={out}', '--text=words')
  assert '--pair is one of' in no(f'--data={data}', f'--out={out}', '--pair=words')
  assert 'x.csv: no such file' in no(f'--data={tmp_path / "x.csv"}', f'--out={out}')
  good = data_config.jsonl(tmp_path / 'good.jsonl', rows[:3])
  assert "unknown extension '.xls'" in no(f'--data={good}', f'--out={tmp_path / "b.xls"}')
  assert 'is the data itself' in no(f'--data={good}', f'--out={good}')
  assert 'cannot write to' in no(f'--data={good}', f'--out={good}/b.csv')
  twice = data_config.jsonl(tmp_path / 'twice.jsonl', [dict(text='a', prediction='b')])
  assert "'prediction' are columns of the data already" in no(f'--data={twice}', f'--out={out}')
  assert 'neither a folder' in _fails(
    capsys, tmp_path / 'nowhere', f'--data={good}', f'--out={out}'
  )
  assert not out.exists() and not list(tmp_path.glob('*.parts'))


@pytest.mark.parametrize('kind', ['csv', 'jsonl', 'parquet'])
def test_an_attempt_that_died_is_taken_up_and_ends_in_the_same_bytes(
  tmp_path, rng, folder, monkeypatch, kind
):
  monkeypatch.setattr(rowwise, 'PART', 16)
  texts = [text for text, _ in toy.rows(rng, 100)]
  data = data_config.jsonl(tmp_path / 'a.jsonl', [dict(text=t, n=i) for i, t in enumerate(texts)])
  clf = predict.load(folder, batch_size=8)
  ask = lambda out, clf=clf: predict.file(clf, folder, data, 'text', '', out)  # noqa: E731
  whole, out = tmp_path / f'whole.{kind}', tmp_path / f'out.{kind}'
  assert ask(whole) == 100
  part, computed = blocks.Writer.part, []

  def dies(self, block, path, first):
    computed.append(first)
    if len(computed) == 4:
      path.write_text('half of')
      raise KeyboardInterrupt
    part(self, block, path, first)

  monkeypatch.setattr(blocks.Writer, 'part', dies)
  with pytest.raises(KeyboardInterrupt):
    ask(out)
  assert not out.exists()
  assert len(list((tmp_path / f'out.{kind}.parts').glob('0*'))) == 3
  assert ask(out) == 100
  assert computed == [1, 17, 33, 49, 49, 65, 81, 97]
  assert out.read_bytes() == whole.read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(['a.jsonl', whole.name, out.name])

  # Parts of other rows, or of another model, are not taken.
  computed.clear()
  with pytest.raises(KeyboardInterrupt):
    ask(out)
  data_config.jsonl(data, [dict(text=t, n=i) for i, t in enumerate(reversed(texts))])
  computed[:] = [0] * 9
  ask(out)
  assert computed[9:] == [1, 17, 33, 49, 65, 81, 97]
  assert out.read_bytes() != whole.read_bytes()


def test_blocks_are_of_one_size_whatever_the_file(tmp_path, rng, monkeypatch):
  rows = [dict(text=f'{i}\n"', n=i) | ({'more': 1} if i > 70 else {}) for i in range(90)]
  monkeypatch.setattr(files, '_BATCH', 7)
  path = data_config.jsonl(tmp_path / 'a.jsonl', rows)
  found = list(blocks.read(path, 32))
  assert [len(b['text']) for b in found] == [32, 32, 26]
  assert 'more' not in found[0] and found[2]['more'] == [None] * 7 + [1] * 19
  assert [v for b in found for v in b['n']] == list(range(90))
  whole = files.read(path)
  assert whole['more'] == [None] * 71 + [1] * 19 and list(whole) == ['text', 'n', 'more']
  columns = dict(text=[r['text'] for r in rows], n=[r['n'] for r in rows])
  again = list(blocks.read(data_config.parquet(tmp_path / 'a.parquet', **columns), 32))
  assert [b['text'] for b in again] == [b['text'] for b in found]


def test_memory_does_not_grow_with_the_file(tmp_path):
  import tracemalloc

  path = tmp_path / 'a.jsonl'

  def peak(n):
    path.write_text(''.join(json.dumps(dict(text=f'{i} ' * 20)) + '\n' for i in range(n)))
    tracemalloc.start()
    assert sum(len(b['text']) for b in blocks.read(path, 256)) == n
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found

  peak(1000)
  assert peak(40_000) < 1.5 * peak(4000)


@pytest.mark.slow
def test_a_kill_in_the_middle_costs_a_part(tmp_path, rng, folder):
  texts = [' '.join(rng.choice(toy.WORDS, 30)) for _ in range(60_000)]
  data = data_config.jsonl(tmp_path / 'a.jsonl', [dict(text=t) for t in texts])
  root = pathlib.Path(predict.__file__).parents[1]

  def start(out):
    command = [sys.executable, '-m', 'kdjax.predict', folder, f'--data={data}', f'--out={out}']
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE)

  whole, out = tmp_path / 'whole.csv', tmp_path / 'out.csv'
  assert start(whole).wait() == 0
  first, parts = start(out), tmp_path / 'out.csv.parts'
  while len(list(parts.glob('0*'))) < 3:
    assert first.poll() is None
    time.sleep(0.01)
  os.kill(first.pid, signal.SIGKILL)
  first.wait()
  assert not out.exists()
  again = start(out)
  assert again.wait() == 0 and b'going on from row' in again.stderr.read()
  assert out.read_bytes() == whole.read_bytes()
