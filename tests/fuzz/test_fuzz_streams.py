"""Unlabelled text: a damaged file is documents that a tokenizer takes, or is refused."""

import gzip
import io
import json

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from kdjax.data import streams
from tests.fuzz import damage

_TEXTS = ['a film', '\U0001f600 \u202e\u05d0', '!?', 'NULL', '"a, b"']


def _parquet() -> bytes:
  out = io.BytesIO()
  parquet.write_table(pa.table(dict(text=_TEXTS * 10)), out)
  return out.getvalue()


_LINES = '\n'.join(_TEXTS).encode()
_JSON = '\n'.join(json.dumps(dict(text=text)) for text in _TEXTS).encode()
_VALID = {
  '.txt': _LINES,
  '.txt.gz': gzip.compress(_LINES),
  '.csv': b'text,n\n' + b'\n'.join(b'a film,1' for _ in _TEXTS),
  '.jsonl': _JSON,
  '.parquet': _parquet(),
}
_OTHER = [
  b'',
  b'\n',
  b'\xff\xfea\0',
  b'\xef\xbb\xbf',
  b'\0' * 50,
  b'text\n' + b'"' * 99,
  b'[1, 2]\n',
]
_OTHER += [b'{"text": "\\ud800"}\n', b'{"text": 1}\n', b'{"text": {"a": 1}}\n', b'[' * 100_000]


@pytest.mark.parametrize('suffix', _VALID)
def test_documents_are_text_or_the_file_is_refused(fuzz, tmp_path, suffix):
  path = tmp_path / f'a{suffix}'

  def once(data):
    path.write_bytes(data)
    found = []
    out = damage.outcome(path, lambda: found.extend(streams.documents(str(path), 'text')))
    ''.join(found).encode()  # no half of a surrogate pair
    return out

  odd = st.integers(0, len(_OTHER) - 1).map(_OTHER.__getitem__)
  fuzz(st.one_of(damage.edited(_VALID[suffix]), odd), once, share=0.1)
