"""csv, tsv, jsonl and parquet: what is read is what another reader reads, the rest is refused."""

import csv
import io
import json

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from kdjax.data import files
from tests.fuzz import damage

_TEXTS = [
  'text', 'label', 'a', '', ' ', '1', ' 1 ', '1.0', 'null', 'NaN', '"', '""', ',', '\t', '\n', '\r',
  '\r\n', '\n\n', '\0', '\ufeff', '\u202e', '\u200f\u05d0\u05d1', '\U0001f600', '\u2028',
  '\x85', '\x1c', '!?#$', '\\', "'", '{', '}', '[', ':', 'LONG',
]  # fmt: skip
_BYTES = [t.encode() for t in _TEXTS]
_BYTES += [b'\xff\xfe', b'\xfe\xff', b'\xe9', b'\xed\xa0\x80', b'\xc3']
_ROWS = [['text', 'label'], ['a, "b"', '1'], ['c\nd', '0'], ['\U0001f600 \u05d0', ' 1 '], ['', '2']]
_DEEP = [b'[' * 200_000, b'{"a":' * 100_000, b'9' * 5000, b'{"a":' + b'9' * 5000 + b'}']


def _written(rows, **options) -> bytes:
  out = io.StringIO()
  csv.writer(out, **options).writerows(rows)
  return out.getvalue().encode()


def _contents(valid: bytes, header: bytes):
  pieces = st.lists(st.sampled_from(_BYTES), max_size=25).map(b''.join)
  pieces = pieces.map(lambda data: data.replace(b'LONG', b'a' * 100_000))
  starts = [b'', header, header.replace(b'\n', b'\r\n'), b'\xef\xbb\xbf' + header]
  other = st.sampled_from(['utf-16', 'utf-16-le', 'utf-32', 'utf-8-sig', 'utf-7'])
  return st.one_of(
    damage.edited(valid),
    st.tuples(st.sampled_from(starts), pieces).map(b''.join),
    other.map(lambda name: valid.decode().encode(name)),
  )


@pytest.mark.parametrize('suffix', ['.csv', '.tsv'])
def test_what_is_read_of_a_csv_is_what_python_reads(fuzz, tmp_path, suffix):
  tabs = suffix == '.tsv'
  options = dict(
    delimiter='\t' if tabs else ',', quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
  )
  rows = [[value.replace('\n', ' ') for value in row] for row in _ROWS] if tabs else _ROWS
  valid = _written(rows, **options, quotechar=None) if tabs else _written(rows)
  path = tmp_path / f'a{suffix}'
  csv.field_size_limit(1 << 30)

  def once(data):
    path.write_bytes(data)
    found = {}
    out = damage.outcome(path, lambda: found.update(files.read(path)))
    if out == 'read':
      lines = io.StringIO(data.decode('utf-8-sig'), newline='')
      names, *want = [row for row in csv.reader(lines, **options) if row]
      assert list(found) == names
      assert list(zip(*found.values(), strict=True)) == [tuple(row) for row in want]
    return out

  header = b'text\tlabel\n' if tabs else b'text,label\n'
  fuzz(_contents(valid, header), once)


def _line(row) -> bytes:
  return json.dumps(row).encode()


def test_what_is_read_of_a_jsonl_is_what_each_line_says(fuzz, tmp_path):
  path = tmp_path / 'a.jsonl'
  valid = b'\n'.join(_line(dict(zip(_ROWS[0], row, strict=True))) for row in _ROWS[1:])
  texts = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=5), st.just('\ud800'))
  rows = st.dictionaries(texts, damage.ANY | texts, max_size=3).map(_line) | damage.ANY.map(_line)
  odd = st.sampled_from(
    [b'[' * 200_000, b'{"a":' * 100_000, b'9' * 5000, b'{"a":' + b'9' * 5000 + b'}']
  )
  twice = st.just(b'{"text": "a", "text": "b"}')
  lines = st.lists(rows | odd | twice, min_size=1, max_size=3).map(b'\n'.join)

  def once(data):
    path.write_bytes(data)
    found = {}
    out = damage.outcome(path, lambda: found.update(files.read(path)))
    if out == 'read':
      text = [line for line in data.decode('utf-8-sig').split('\n') if line.strip()]
      for n, row in enumerate(map(json.loads, text)):
        there = {name: column[n] for name, column in found.items()}
        assert repr({name: row.get(name) for name in there}) == repr(there)  # NaN is not NaN
        assert row.keys() <= there.keys()
    return out

  fuzz(_contents(valid, b'{"text": "a"}\n') | lines, once)


def _parquet(columns, **options) -> bytes:
  out = io.BytesIO()
  parquet.write_table(pa.table(columns), out, **options)
  return out.getvalue()


@pytest.mark.parametrize('codec', ['snappy', 'zstd', 'none'])
def test_a_damaged_parquet_is_a_table_or_refused(fuzz, tmp_path, codec):
  path = tmp_path / 'a.parquet'
  plain = dict(text=['a', 'b\U0001f600', ''] * 20, label=[0, 1, None] * 20)
  odd = dict(
    text=[b'\xff', b'a'], label=[{'x': [1]}, None], when=pa.array([1, 2**62], 'timestamp[us]')
  )
  bases = [_parquet(c, compression=codec) for c in (plain, odd)]

  def once(data):
    path.write_bytes(data)
    found = {}
    out = damage.outcome(path, lambda: found.update(files.read(path)))
    assert len({len(column) for column in found.values()}) <= 1
    return out

  fuzz(st.one_of(*map(damage.edited, bases)), once, share=2 / 3)
