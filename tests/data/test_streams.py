"""Documents from files of every kind, one after another, and what is wrong with them."""

import gzip
import itertools
import json

import pytest

from kdjax.data import streams
from tests.data import data_config

_TEXTS = ['one film', 'a "quoted", one', 'null', '12', 'last']


def _read(where, column='text'):
  return list(streams.documents(str(where), column))


def _csv(path, texts, sep=','):
  quoted = texts if sep == '\t' else ['"' + t.replace('"', '""') + '"' for t in texts]
  path.write_text(
    '\n'.join([f'n{sep}text', *(f'{i}{sep}{t}' for i, t in enumerate(quoted))]) + '\n'
  )
  return path


def _all_kinds(folder):
  (folder / 'a.txt').write_text('\n'.join(_TEXTS) + '\n')
  with gzip.open(folder / 'b.txt.gz', 'wt') as f:
    f.write('\n'.join(_TEXTS))
  data_config.jsonl(folder / 'c.jsonl', [dict(n=i, text=t) for i, t in enumerate(_TEXTS)])
  with gzip.open(folder / 'd.jsonl.gz', 'wt') as f:
    f.writelines(json.dumps(dict(text=t)) + '\n' for t in _TEXTS)
  data_config.parquet(folder / 'e.parquet', n=list(range(5)), text=_TEXTS)
  _csv(folder / 'f.csv', _TEXTS)
  _csv(folder / 'g.tsv', _TEXTS, '\t')
  (folder / 'h.csv.gz').write_bytes(gzip.compress((folder / 'f.csv').read_bytes()))
  return sorted(folder.iterdir())


def test_every_kind_of_file_gives_its_texts_as_they_are(tmp_path):
  for path in _all_kinds(tmp_path):
    assert _read(path) == _TEXTS, path


def test_a_folder_and_a_pattern_are_their_files_by_name(tmp_path):
  files = _all_kinds(tmp_path)
  (tmp_path / 'notes.md').write_text('no text')
  below = tmp_path / 'z' / 'below'
  below.mkdir(parents=True)
  (below / 'h.txt').write_text('deep')
  assert _read(tmp_path) == _TEXTS * len(files) + ['deep']
  assert streams.find(str(tmp_path / '*.txt*')) == [tmp_path / 'a.txt', tmp_path / 'b.txt.gz']
  assert streams.find(str(tmp_path / '**' / '*.txt')) == [tmp_path / 'a.txt', below / 'h.txt']
  odd = tmp_path / 'z' / 'odd [1].txt'
  odd.write_text('odd')
  assert _read(odd) == ['odd']


def test_numbers_in_a_column_of_csv_are_text(tmp_path):
  assert _read(_csv(tmp_path / 'a.csv', ['1', '02'])) == ['1', '02']


def test_blank_documents_are_passed_over(tmp_path):
  (tmp_path / 'a.txt').write_text('\none\n  \n\ntwo')
  assert _read(tmp_path) == ['one', 'two']


def test_files_are_read_as_they_are_asked_for(tmp_path):
  (tmp_path / 'a.txt').write_text('one\n')
  (tmp_path / 'b.parquet').write_text('no parquet')
  stream = streams.documents(str(tmp_path), 'text')
  assert list(itertools.islice(stream, 1)) == ['one']
  with pytest.raises(ValueError, match=r'b.parquet: cannot be read \(ArrowInvalid'):
    next(stream)


def test_what_is_wrong_is_named_with_file_row_and_columns(tmp_path):
  def no(match, name, write, column='text'):
    path = tmp_path / name
    write(path)
    with pytest.raises(ValueError, match=match):
      _read(path, column)

  rows = [dict(text='a')] * 300 + [dict(text=None)]
  no(r"a.jsonl: row 301 of column 'text' is None, not text", 'a.jsonl',
     lambda p: data_config.jsonl(p, rows))  # fmt: skip
  no(r"b.parquet: row 2 .* is None", 'b.parquet',
     lambda p: data_config.parquet(p, text=['a', None]))  # fmt: skip
  no(r"c.parquet: no column 'review'; it has 'text', 'n': set config.data.text", 'c.parquet',
     lambda p: data_config.parquet(p, text=['a'], n=[1]), 'review')  # fmt: skip
  no(r"d.csv: no column 'review'; it has 'n', 'text'", 'd.csv', lambda p: _csv(p, ['a']), 'review')
  no(r'd.csv: .*row 1: Expected 2 columns, got 3', 'd.csv',
     lambda p: p.write_text('text,label\na film,1,\n'))  # fmt: skip
  no(r'd.tsv.gz: .*row 2: Expected 1 columns, got 2', 'd.tsv.gz',
     lambda p: p.write_bytes(gzip.compress(b'text\na\nb\tc\n')))  # fmt: skip
  no(r'd.csv.gz: cannot be read', 'd.csv.gz', lambda p: p.write_bytes(b'no gzip'))
  no(r'e.jsonl: row 2: not JSON', 'e.jsonl', lambda p: p.write_text('{"text": "a"}\n{"text":\n'))
  no(r'f.txt: cannot be read .*utf-8', 'f.txt', lambda p: p.write_bytes(b'a\n\xff\xfe\n'))
  no(r'g.md: unknown extension; .*\.txt, \.jsonl', 'g.md', lambda p: p.write_text('a'))
  no(r'h.parquet.gz: unknown extension', 'h.parquet.gz', lambda p: p.write_text('a'))
  for where in (tmp_path / 'nowhere.txt', tmp_path / 'no*.txt'):
    with pytest.raises(ValueError, match=r'no such file, no folder of \.txt'):
      _read(where)


def test_a_file_without_a_byte_among_others_has_no_rows(tmp_path):
  (tmp_path / 'a.csv').write_text('')
  (tmp_path / 'b.csv').write_text('text\na film\n')
  assert list(_read(tmp_path)) == ['a film']


def test_other_fields_of_jsonl_may_be_anything_and_come_late(tmp_path):
  said = [f'2024-01-{n % 28 + 1:02}' for n in range(3000)]  # texts, though they look like dates
  rows = [dict(id=n, text=text) for n, text in enumerate(said)]
  rows[2500] |= dict(id='late', more=[1, dict(a=2)])
  assert _read(data_config.jsonl(tmp_path / 'a.jsonl', rows)) == said
  (tmp_path / 'b.jsonl.gz').write_bytes(b'no gzip')
  with pytest.raises(ValueError, match=r'b.jsonl.gz: cannot be read \(BadGzipFile'):
    _read(tmp_path / 'b.jsonl.gz')


def test_an_owner_and_a_name_are_a_hub_data_set(monkeypatch):
  import datasets

  asked = []

  def load(*args, **options):
    asked.append((args, options))
    return datasets.Dataset.from_dict(dict(text=['a', 'b'])).to_iterable_dataset()

  monkeypatch.setattr(datasets, 'load_dataset', load)
  assert _read('owner/name') == _read('owner/name:part') == ['a', 'b']
  want = dict(split='train', streaming=True)
  assert asked == [(('owner/name', None), want), (('owner/name', 'part'), want)]

  def fails(*args, **options):
    raise ConnectionError('no network')

  monkeypatch.setattr(datasets, 'load_dataset', fails)
  with pytest.raises(ValueError, match=r'owner/name \(no such file here.*ConnectionError: no netw'):
    _read('owner/name')
