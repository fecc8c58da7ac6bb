"""python -m kdjax.serve, in processes of its own."""

import asyncio
import contextlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import numpy as np
import pytest

import kdjax
from kdjax import serve
from kdjax.models import vision_files
from tests import toy

ROOT = pathlib.Path(__file__).parent.parent
LONG = 120.0  # seconds that no test takes
# A model that needs no jax: it stands still at 'slow' until a file is there.
MADE_UP = """
import pathlib, sys, time
import numpy as np
from kdjax import serve
free = pathlib.Path(sys.argv.pop())
class Model:
  kind, labels = 'regression', ()
  def at_once(self, inputs):
    while 'slow' in inputs and not free.exists():
      time.sleep(0.01)
    return np.float32([len(one) for one in inputs])
serve.classifier = lambda *_: Model()
serve.run()
"""


class Service:
  """A process that serves on a free port, from its log on what it says."""

  def __init__(self, *command: str):
    self.process = subprocess.Popen(
      [sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    self.lines = []
    for line in self.process.stderr:
      self.lines.append(line.strip())
      if found := re.fullmatch(r'Serving .* on (http://.*:\d+)', line.strip()):
        self.url = found[1]
        break
    else:
      raise AssertionError(self.lines)
    self._reader = threading.Thread(target=self._read)
    self._reader.start()

  def _read(self):
    self.lines += [line.strip() for line in self.process.stderr]

  def memory(self) -> int:
    """KiB that are in memory; 0 where the system does not say."""
    status = pathlib.Path(f'/proc/{self.process.pid}/status')
    return int(re.search(r'VmRSS:\s+(\d+) kB', status.read_text())[1]) if status.exists() else 0

  def end(self) -> int:
    """The exit status, when all that it said is read."""
    status = self.process.wait(LONG)
    self._reader.join(LONG)
    return status


@pytest.fixture
def started():
  """started(*command) -> a Service, which does not outlive the test."""
  services = []

  def start(*command):
    services.append(Service(*command))
    return services[-1]

  yield start
  for service in services:
    service.process.kill()
    service.process.wait()


def _texts(rng, n: int) -> list:
  """Texts and pairs of mixed lengths, some of them longer than the model reads."""
  text = lambda: ' '.join(rng.choice(toy.WORDS, rng.integers(0, 40)))  # noqa: E731
  return [[(text(), text()) for _ in range(k)] if rng.random() < 0.3 else [text() for _ in range(k)]
          for k in rng.integers(1, 5, n)]  # fmt: skip


MALFORMED = [
  b'', b'{', b'[' * 5000, b'null', b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": ["\xff"]}',
  b'{"inputs": ["a", ["b", "c"]]}', b'{"inputs": ["\\ud800"]}',
  b'{"inputs": ["' + b'a' * 20_000 + b'"]}',
]  # fmt: skip


async def _ask(url: str, asked: list) -> list[httpx2.Response]:
  """The answers to all, which are sent at once, each by a connection of its own."""
  head = {'content-type': 'application/json'}
  limits = httpx2.Limits(max_connections=len(asked), max_keepalive_connections=0)
  async with httpx2.AsyncClient(base_url=url, timeout=LONG, limits=limits) as client:
    calls = (
      client.post('/predict', content=one, headers=head)
      if isinstance(one, bytes)
      else client.post('/predict', json=dict(inputs=one))
      for one in asked
    )
    return await asyncio.gather(*calls)


@pytest.mark.parametrize('n, rounds', [(200, 1), pytest.param(1000, 5, marks=pytest.mark.slow)])
def test_many_at_once_get_each_its_own_answer(started, tmp_path, rng, n, rounds):
  model = toy.model(tmp_path / 'model', labels=3)
  flags = ('--port=0', '--queue=100000', '--batch_size=16')
  service = started('-m', 'kdjax.serve', str(model), *flags)
  assert service.url.startswith('http://127.0.0.1:')
  clf = kdjax.load(model, batch_size=64)
  health = httpx2.get(f'{service.url}/health').json()
  assert health['labels'] == list(clf.labels) and health['kind'] == 'classes'

  good = _texts(rng, n * 4 // 5)
  asked = [*good, *(MALFORMED[i % len(MALFORMED)] for i in range(n // 5))]
  order = rng.permutation(n)
  asyncio.run(_ask(service.url, [asked[i] for i in order[:100]]))  # buffers are made, pools filled
  memory = [service.memory()]
  for _ in range(rounds):
    found = asyncio.run(_ask(service.url, [asked[i] for i in order]))
    memory.append(service.memory())
    _check(dict(zip(order, found, strict=True)), good, clf)
  print(f'\nMiB after each round: {[round(kib / 1024, 1) for kib in memory]}')
  assert memory[-1] - memory[0] < 64 << 10
  assert memory[-1] - memory[1] < 16 << 10  # steady
  found = httpx2.get(f'{service.url}/metrics').json()
  assert found['waiting'] == 0 and max(map(int, found['batches'])) == 16
  service.process.send_signal(signal.SIGTERM)
  assert service.end() == 0
  assert [line.split()[0] for line in service.lines[-3:]] == ['Compiled', 'Serving', 'Stopped.']


def _check(answers: dict[int, httpx2.Response], good: list, clf) -> None:
  """By their numbers: first those to `good`, as the direct call has them; the rest are refusals."""
  for pair in (False, True):
    mine = [i for i, inputs in enumerate(good) if isinstance(inputs[0], tuple) == pair]
    want = clf([one for i in mine for one in good[i]])
    assert {answers[i].status_code for i in mine} == {200}
    found = [one for i in mine for one in answers[i].json()['predictions']]
    got = [[one['probabilities'][name] for name in clf.labels] for one in found]
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)
    assert [one['label'] for one in found] == [clf.labels[np.argmax(row)] for row in got]
  for i in range(len(good), len(answers)):
    assert answers[i].status_code in (400, 422), answers[i].text
    assert set(answers[i].json()['error']) == {'type', 'message', 'field'}


def _waiting(url: str, n: int) -> None:
  """Until so many texts wait."""
  with httpx2.Client(base_url=url, timeout=LONG) as client:
    while client.get('/metrics').json()['waiting'] < n:
      time.sleep(0.02)


def _address(service) -> tuple[str, int]:
  host, port = service.url.removeprefix('http://').split(':')
  return host, int(port)


def test_told_to_stop_it_answers_what_waits_and_takes_no_more(started, tmp_path):
  free = tmp_path / 'free'
  service = started(
    '-c', MADE_UP, 'made-up', '--port=0', '--batch_size=1', f'--grace={LONG}', str(free)
  )
  found = []
  ask = lambda: found.extend(asyncio.run(_ask(service.url, [['slow']] * 3)))  # noqa: E731
  client = threading.Thread(target=ask)
  client.start()
  _waiting(service.url, 2)  # the third is with the model
  service.process.send_signal(signal.SIGINT)
  with contextlib.suppress(ConnectionError):
    while True:
      socket.create_connection(_address(service)).close()
      time.sleep(0.02)
  assert service.process.poll() is None
  free.touch()
  client.join(LONG)
  assert [answer.json() for answer in found] == [dict(predictions=[dict(score=4.0)])] * 3
  assert service.end() == 0
  assert service.lines[-1] == 'Stopped. Texts: 3.'


SLOW = (
  b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
  b'Content-Length: 20\r\n\r\n{"inputs": ["slow"]}'
)


def test_a_model_that_stands_still_keeps_nobody_longer_than_the_grace(started, tmp_path):
  flags = ('--port=0', '--batch_size=1', '--grace=0.2', str(tmp_path / 'never'))
  service = started('-c', MADE_UP, 'made-up', *flags)
  kept = [socket.create_connection(_address(service)) for _ in range(3)]
  for one in kept:
    one.sendall(SLOW)
  _waiting(service.url, 2)
  kept.pop().close()  # who leaves harms nobody
  kept.append(socket.create_connection(_address(service)))
  kept[-1].sendall(SLOW[:-5])  # and the rest never comes
  service.process.send_signal(signal.SIGTERM)
  assert service.end() == 0
  for one in kept:
    assert one.recv(12) in (b'', b'HTTP/1.1 503')
    one.close()
  assert service.lines[-1].startswith('Stopped') and len(service.lines) <= 3, service.lines


def test_what_cannot_be_served_is_said_in_a_line(tmp_path):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=rf'--port={port}: .*in use'):
      serve.bind('127.0.0.1', port)
  (tmp_path / 'config.json').write_text(json.dumps(dict(model_type=vision_files.TYPE)))
  with pytest.raises(ValueError, match='reads images, not text'):
    serve.classifier(str(tmp_path), 1, 8)
  code = "import sys\nsys.modules['uvicorn'] = None\nfrom kdjax import serve\nserve.run()"
  command = [sys.executable, '-c', code, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: kdjax.serve needs fastapi and uvicorn: pip install 'kdjax[serve]'")


def test_it_listens_to_this_machine_alone_unless_told_otherwise():
  with serve.bind('127.0.0.1', 0) as bound:
    assert re.fullmatch(r'http://127\.0\.0\.1:[1-9]\d*', serve.url(bound))
    with socket.socket() as client:  # bound, and nobody answers before it is ready
      assert client.connect_ex(bound.getsockname())
