import json

import pytest
from data_config import jsonl, parquet

from kdjax.data import files


def test_csv_keeps_quotes_commas_newlines_and_every_value_as_text(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('text,label\n"a, ""b""\nc",01\nnull,1\n,2\n', encoding='utf-8-sig')
  assert files.read(path) == {'text': ['a, "b"\nc', 'null', ''], 'label': ['01', '1', '2']}


def test_tsv_takes_quotes_as_they_are(tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_text('text\tlabel\n"open quote\t1\nsay "hi", you\t0\n')
  assert files.read(path) == {'text': ['"open quote', 'say "hi", you'], 'label': ['1', '0']}


def test_jsonl_and_parquet_give_the_same_columns(tmp_path):
  columns = {'text': ['a', 'b'], 'label': [1, 0], 'tags': [['x'], []]}
  rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
  assert files.read(jsonl(tmp_path / 'a.jsonl', rows)) == columns
  assert files.read(parquet(tmp_path / 'a.parquet', **columns)) == columns


def test_a_key_that_a_line_lacks_is_none(tmp_path):
  path = jsonl(tmp_path / 'a.jsonl', [{'text': 'a'}, {'label': 1}])
  assert files.read(path) == {'text': ['a', None], 'label': [None, 1]}


@pytest.mark.parametrize(
  'name, content, said',
  [
    ('a.csv', 'text,label\na,1\nb,2,3\n', 'a.csv: .*row 2: Expected 2 columns, got 3'),
    ('a.tsv', 'text\tlabel\na\t1\nb\n', 'a.tsv: .*row 2: Expected 2 columns, got 1'),
    ('a.csv', 'text,text\na,1\n', r"columns \['text'\] occur more than once"),
    ('a.csv', '', 'a.csv: no rows'),
    ('a.csv', 'text,label\n', 'a.csv: no rows'),
    ('a.csv', b'text,label\n\xff\xfe,1\n', 'a.csv: .*UTF8'),
    ('a.jsonl', '', 'a.jsonl: no rows'),
    ('a.jsonl', '{"text": "a"}\n{"text": \n', 'a.jsonl: row 2: not JSON'),
    ('a.jsonl', '["a", 1]\n', 'a.jsonl: row 1: list, not an object'),
    ('a.jsonl', b'{"text": "a"}\n{"text": "\xff"}\n', 'a.jsonl: .*not UTF-8'),
    ('a.parquet', 'text', 'a.parquet: not a readable parquet file'),
    ('a.xlsx', 'text', r"unknown extension '.xlsx'; it is one of .csv, .tsv, .jsonl, .parquet"),
  ],
)
def test_bad_files_end_with_one_line_that_names_file_and_row(tmp_path, name, content, said):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match=said):
    files.read(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'nowhere.csv: no such file'):
    files.read(tmp_path / 'nowhere.csv')


def test_an_empty_parquet_file_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'no rows'):
    files.read(parquet(tmp_path / 'a.parquet', text=[], label=[]))


def test_fresh_rows_survive_every_format(tmp_path, rng):
  letters = list('abc ,"\'\\é字')
  rows = [
    {'text': 'x' + ''.join(rng.choice(letters, 12)), 'label': str(rng.integers(9))}
    for _ in range(50)
  ]
  columns = {key: [row[key] for row in rows] for key in rows[0]}
  quoted = ['text,label'] + [
    '"{}",{}'.format(row['text'].replace('"', '""'), row['label']) for row in rows
  ]
  (tmp_path / 'a.csv').write_text('\n'.join(quoted))
  (tmp_path / 'a.tsv').write_text(
    '\n'.join(['text\tlabel', *('\t'.join(row.values()) for row in rows)])
  )
  (tmp_path / 'a.jsonl').write_text('\n\n'.join(json.dumps(row) for row in rows))
  parquet(tmp_path / 'a.parquet', **columns)
  for name in files.READS:
    assert files.read(tmp_path / f'a{name}') == columns
