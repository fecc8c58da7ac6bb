"""A line of progress on a terminal and in a file, and tables of a terminal's width."""

import os
import pty
import subprocess
import sys

import pytest

from kdjax import progress, report

COUNT = """
import logging, sys
from kdjax import log, progress
log.setup()
with progress.Line('kd', 40, 4) as line:
  for n in range(36):
    line.update(1, loss=1 / (n + 1), **{'examples/s': 20900.0}, accuracy=0.5)
    if n == 9:
      log.logger.warning('a line of the log')
"""


def _terminal(code: str, columns: int = 80, **env) -> list[str]:
  """What a process leaves on a terminal: lines; of those that were drawn anew, the last."""
  ours, theirs = pty.openpty()
  import fcntl
  import struct
  import termios

  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
  with subprocess.Popen(
    [sys.executable, '-c', code], stderr=theirs, stdout=theirs, env=os.environ | env
  ):
    os.close(theirs)
    said = b''
    while True:
      try:
        said += os.read(ours, 4096)
      except OSError:  # the other side is closed
        break
  os.close(ours)
  lines = said.decode().replace('\r\n', '\n').split('\n')
  return [line.rstrip('\r').rpartition('\r')[2].rstrip() for line in lines]


@pytest.mark.parametrize('columns', [60, 80, 120])
def test_a_terminal_has_one_line_that_fits_and_the_log_above_it(columns):
  first, last, end = _terminal(COUNT, columns, TERM='xterm')
  assert first == 'a line of the log' and end == ''
  assert last.startswith('kd |') and '40/40' in last and len(last) <= columns
  assert ('examples/s 20,900' in last) == (columns == 120)
  assert 'loss 0.0278' in last and ('accuracy 0.5' in last) == (columns > 60)


def test_nothing_is_drawn_anew_in_a_file_nor_on_a_dumb_terminal():
  done = subprocess.run([sys.executable, '-c', COUNT], capture_output=True, text=True, check=True)
  for said in (done.stderr, '\n'.join(_terminal(COUNT, TERM='dumb'))):
    assert '\r' not in said and '\x1b' not in said
    first, last = said.strip().splitlines()
    assert first == 'a line of the log'
    assert last.startswith('kd: step 40 of 40, loss 0.0278, accuracy 0.5, examples/s 20,900 (00:')


def test_a_file_gets_a_line_a_minute(monkeypatch, caplog):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  caplog.set_level('INFO', 'kdjax')
  with progress.Line('kd', 1000, 100) as line:
    for _ in range(100):
      now[0] += 1.5
      line.update()
  assert [record.getMessage() for record in caplog.records] == [
    'kd: step 140 of 1,000 (01:00, 21:30 left)',
    'kd: step 180 of 1,000 (02:00, 20:30 left)',
    'kd: step 200 of 1,000 (02:30, 20:00 left)',
  ]


def test_hosts_behind_the_first_and_what_did_nothing_say_nothing(caplog):
  caplog.set_level('INFO', 'kdjax')
  with progress.Line('kd', 10, 10):
    pass
  line = progress.Line('kd', shown=False)
  assert list(line.each('abc')) == ['a', 'b', 'c'] and line.n == 3
  assert caplog.text == ''
  assert list(progress.Line('text', unit='document').each('abc')) == ['a', 'b', 'c']
  assert [r.getMessage() for r in caplog.records] == ['text: document 3 (00:00)']  # of no total


def test_a_terminal_shows_what_has_no_end():
  code = (
    "from kdjax import progress\nassert list(progress.Line('text', unit='document').each('ab'))"
  )
  assert _terminal(code, TERM='xterm')[0] == 'text: 2 documents, 00:00'


def test_a_table_has_no_line_beyond_the_terminal_and_loses_nothing():
  head = ['', 'parameters', 'validation_matched accuracy', 'test f1', 'x teacher']
  lines = [['teacher', '22.7 M', '0.9021 ± 0.0034', '0.5', '1.0'], ['kd', '1 M', '1', '', '9.9']]
  for columns in (20, 40, 60, 80):
    blocks = report._blocks(head, lines, columns)
    widest = max(len(line) for block in blocks for line in block.splitlines())
    assert widest <= max(columns, len('teacher  validation_matched'))
    for block in blocks:
      assert [line.split()[0] for line in block.splitlines()[-2:]] == ['teacher', 'kd']
    for cell in (*lines[0][1:], *lines[1][1:], *' '.join(head).split()):
      assert cell in '\n'.join(blocks)
  assert len(report._blocks(head, lines, 80)) == 1


def test_a_last_line_is_not_said_twice(monkeypatch, caplog):
  monkeypatch.setattr(progress, '_EVERY', 0.0)
  with caplog.at_level('INFO', 'kdjax'), progress.Line('kd', 2) as line:
    line.update()
    line.update()
  assert [r.getMessage().partition(' (')[0] for r in caplog.records] == [
    'kd: step 1 of 2',
    'kd: step 2 of 2',
  ]
