"""The HTTP side of kdjax.serve, in this process: a queue in front of a model that is made up."""

import asyncio
import contextlib
import json
import threading

import numpy as np
import pytest
from starlette import testclient

from kdjax import batching, service

LABELS = ('bad', 'good', 'odd')
LIMITS = service.Limits(max_inputs=4, max_chars=20, max_bytes=400)


def _rows(items):
  """Probabilities that tell the length of a text, or of both."""
  sizes = [len(one) if isinstance(one, str) else sum(map(len, one)) for one in items]
  return [np.array([0.1, size / 100, 0.9 - size / 100], np.float32) for size in sizes]


@pytest.fixture
def made():
  """made(run, kind, limit) -> a client; its queue is closed behind it."""
  queues, entered = [], contextlib.ExitStack()

  def make(run=_rows, kind='classes', limit=100, raising=True):
    queues.append(batching.Batcher(run, 8, 0.0, limit))
    labels = () if kind == 'regression' else LABELS
    app = service.app(service.Model('toy', kind, labels, ('cpu:0',)), queues[-1], LIMITS)
    return entered.enter_context(testclient.TestClient(app, raise_server_exceptions=raising))

  with entered:
    yield make
  for queue in queues:
    queue.close(10)


def _post(client, body: bytes | str, **headers):
  return client.post(
    '/predict', content=body, headers={'content-type': 'application/json'} | headers
  )


def _error(answer, status: int, type: str) -> dict:
  """The error of an answer, which is of this kind and shape."""
  assert answer.status_code == status, answer.text
  assert answer.headers['content-type'] == 'application/json'
  (error,) = answer.json().values()
  assert list(error) == ['type', 'message', 'field'] and error['type'] == type, error
  assert error['message'].isprintable() and len(error['message']) <= 400
  return error


def test_texts_and_pairs_are_answered_in_their_order(made):
  client = made()
  for inputs, sizes in ([['abc', 'a'], (3, 1)], [[['ab', 'c'], ['a', 'bcdef']], (3, 6)]):
    answer = client.post('/predict', json=dict(inputs=inputs))
    assert answer.status_code == 200
    found = answer.json()['predictions']
    assert [one['label'] for one in found] == ['odd', 'odd']
    for one, size in zip(found, sizes, strict=True):
      want = dict(zip(LABELS, (0.1, size / 100, 0.9 - size / 100), strict=True))
      assert one['probabilities'] == pytest.approx(want) and list(one['probabilities']) == [*LABELS]


def test_top_k_gives_the_likeliest_first(made):
  client = made()
  for k, names in ((1, ['odd']), (2, ['odd', 'bad']), (9, ['odd', 'bad', 'good'])):
    (one,) = client.post('/predict', json=dict(inputs=['a'], top_k=k)).json()['predictions']
    assert list(one['probabilities']) == names and one['label'] == 'odd'


def test_labels_and_scores_have_shapes_of_their_own(made):
  rows = [np.array([0.6, 0.2, 0.7], np.float32)]
  ask = dict(inputs=['a'])
  (one,) = made(lambda items: rows, 'multilabel').post('/predict', json=ask).json()['predictions']
  assert one['labels'] == ['bad', 'odd'] and list(one['probabilities']) == [*LABELS]
  scores = made(lambda items: np.float32([2.5]), 'regression')
  assert scores.post('/predict', json=ask).json() == dict(predictions=[dict(score=2.5)])
  error = _error(scores.post('/predict', json=ask | dict(top_k=1)), 422, 'invalid')
  assert error['field'] == 'top_k'


def test_health_metrics_and_the_schema(made):
  client = made()
  health = client.get('/health').json()
  assert health['status'] == 'ready' and health['labels'] == [*LABELS]
  assert set(health) == {'status', 'name', 'kind', 'labels', 'devices', 'version'}
  client.post('/predict', json=dict(inputs=['a', 'b']))
  _post(client, 'no')
  found = client.get('/metrics').json()
  assert found['answers'] == {'200': 2, '400': 1} and found['texts'] == 2
  assert found['batches'] == {'2': 1} and set(found['milliseconds']) == {'p50', 'p95', 'p99'}
  schema = client.get('/openapi.json').json()
  body = schema['paths']['/predict']['post']['requestBody']['content']['application/json']
  assert body['schema']['properties']['inputs']['maxItems'] == LIMITS.max_inputs
  assert 'ClassPrediction' in schema['components']['schemas']
  assert client.get('/docs').status_code == 200


def _never(items):
  raise AssertionError(f'{items} came through')


NOT_JSON = [
  '', ' ', '{', 'NaNs', '{"inputs": ["a"]} x', "{'inputs': ['a']}", '{"inputs": ["a",]}',
  b'\xff\xfe{',
  b'\xef\xbb\xbf{"inputs": ["a"]}', '{"inputs": ["a"]}'.encode('utf-16'), b'{"inputs": ["\xe9"]}',
  b'{"inputs": ["\xed\xa0\x80"]}', '{"inputs": ["\\ud800"]}', '{"inputs": ["\\udc00\\ud800"]}',
  '{"inputs": ["a\n"]}', '{"inputs": ["a"], "top_k": 01}', '[' * 399, '{"inputs": ' + '[' * 300,
  '{"a":' * 79,
]  # fmt: skip
LONG = 'a' * (LIMITS.max_chars + 1)
INVALID = {
  None: ['[]', '"a"', 'null', '1', 'NaN', '{"inputs": ["a"], "\\u0000\\n": 1}'],
  'more': ['{"inputs": ["a"], "more": 1}'],
  'inputs': [
    '{}', '{"texts": ["a"]}',
    *(f'{{"inputs": {x}}}' for x in ('null', '{}', '"a"', '[]', '["a", "b", "c", "d", 5]')),
  ],
  'inputs[0]': [
    f'{{"inputs": [{x}]}}'
    for x in ('NaN', 'null', '1e999', 'true, "a"', '["a", "b", "c"]', f'"{LONG}"', '{}')
  ],
  'inputs[1]': ['{"inputs": ["a", 1]}', '{"inputs": ["a", {}]}', f'{{"inputs": ["a", "{LONG}"]}}'],
  'inputs[0][0]': ['{"inputs": [[]]}', '{"inputs": ' + '[' * 150 + ']' * 150 + '}'],
  'inputs[0][1]': [
    f'{{"inputs": [["a"{x}]]}}' for x in ('', ', 1', ', null', ', ["b"]', f', "{LONG}"')
  ],
  'top_k': [
    f'{{"inputs": ["a"], "top_k": {x}}}'
    for x in ('0', '-1', '1.5', '"1"', 'true', 'NaN', '1e400', '[]', '-' + '9' * 300)
  ],
}  # fmt: skip


def test_what_is_no_json_is_a_400(made):
  client = made(_never)
  for body in NOT_JSON:
    assert _error(_post(client, body), 400, 'not_json')['field'] is None


@pytest.mark.parametrize('field', INVALID)
def test_what_is_wrong_with_a_request_is_said_by_its_field(made, field):
  client = made(_never)
  for body in INVALID[field]:
    assert _error(_post(client, body), 422, 'invalid')['field'] == field, body


@pytest.mark.parametrize('body', ['["a", ["b", "c"]]', '[["b", "c"], "a"]'])
def test_texts_and_pairs_do_not_mix(made, body):
  error = _error(_post(made(_never), f'{{"inputs": {body}}}'), 422, 'mixed')
  assert error['field'] == 'inputs'


def test_no_random_body_comes_through_that_should_not(made, rng):
  client = made(_never)
  pick = lambda values: values[rng.integers(len(values))]  # noqa: E731
  good = b'{"inputs": [["a film", "\\u00e9"], ["b", "c"]], "top_k": 2}'
  bodies = [good[:n] for n in range(len(good))]
  for _ in range(50):  # what is no part of JSON, anywhere
    n = rng.integers(len(good))
    bodies.append(good[:n] + pick([b'\xff', b'\x00', b'\xc3', b'\x1f', b'\xed\xbf\xbf']) + good[n:])
  bodies += [rng.integers(128, 256, n, dtype=np.uint8).tobytes() for n in rng.integers(1, 400, 30)]
  odd = [None, True, 1, 2.5, float('nan'), float('inf'), {}, [[['a', 'b']]], 10**40]
  for _ in range(70):
    value = pick(odd)
    inputs = pick([value, ['a', value], [['a', value]], [[value, 'b']]])
    counts = [0, -1, True, 2.5, float('nan'), {}, [], '', '1']
    ask = pick([dict(inputs=inputs), dict(inputs=['a'], top_k=pick(counts)), [inputs], value])
    bodies.append(json.dumps(ask).encode())
  assert len(bodies) > 200
  for body in bodies:
    answer = _post(client, body)
    assert answer.status_code in (400, 422), body
    _error(answer, answer.status_code, 'not_json' if answer.status_code == 400 else 'invalid')


def test_a_body_is_read_as_far_as_it_may_be_whatever_it_says_of_its_length(made):
  client = made()
  head, tail = b'{"inputs": ["a"', b']}'
  fits = head + b' ' * (LIMITS.max_bytes - len(head + tail)) + tail

  def chunks(body):
    yield from (body[start : start + 64] for start in range(0, len(body), 64))

  assert _post(client, fits).status_code == _post(client, chunks(fits)).status_code == 200
  for body in (fits + b' ', chunks(fits + b' ')):
    _error(_post(client, body), 413, 'too_large')


@pytest.mark.parametrize(
  'headers',
  [
    {'content-type': 'text/plain'},
    {'content-type': 'application/x-www-form-urlencoded'},
    {'content-type': ''},
    {'content-type': 'application/json; charset=latin-1'},
    {'content-encoding': 'gzip'},
  ],
)
def test_a_body_of_another_type_is_refused(made, headers):
  _error(_post(made(_never), '{"inputs": ["a"]}', **headers), 415, 'unsupported_media_type')
  assert _post(
    made(), '{"inputs": ["a"]}', **{'content-type': 'Application/JSON; charset="UTF-8"'}
  ).is_success


def test_what_is_not_there_is_said_in_json(made):
  client = made(_never)
  for path in ('/', '/predict/', '/health/x', '/%ff', '/..'):
    _error(client.get(path), 404, 'not_found')
  for method, path in (('GET', '/predict'), ('POST', '/health'), ('DELETE', '/metrics')):
    answer = client.request(method, path)
    _error(answer, 405, 'method_not_allowed')
    assert answer.headers['allow']


def test_a_model_that_fails_is_a_500_and_one_line_and_the_service_lives_on(made, caplog):
  def run(items):
    if 'bad' in items:
      raise ArithmeticError('secret\npart')
    return _rows(items)

  client = made(run)
  error = _error(client.post('/predict', json=dict(inputs=['bad'])), 500, 'model_failed')
  assert 'secret' not in error['message']
  (line,) = {record.getMessage() for record in caplog.records if record.name == 'kdjax'}
  assert line == 'The model failed: ArithmeticError: secret part'
  assert client.post('/predict', json=dict(inputs=['good'])).status_code == 200


def test_an_answer_that_is_no_number_is_a_500(made):
  client = made(lambda items: [np.full(3, np.nan)] * len(items), raising=False)
  _error(client.post('/predict', json=dict(inputs=['a'])), 500, 'internal')


def test_more_than_may_wait_is_a_503_that_says_when_to_come_again(made):
  free, began = threading.Event(), threading.Event()

  def run(items):
    began.set()
    assert free.wait(60)
    return _rows(items)

  client = made(run, limit=2)
  found = []
  first = threading.Thread(
    target=lambda: found.append(client.post('/predict', json=dict(inputs=['a'])))
  )
  first.start()
  assert began.wait(60)
  answer = client.post('/predict', json=dict(inputs=['a', 'b', 'c']))
  _error(answer, 503, 'overloaded')
  assert int(answer.headers['retry-after']) >= 1
  free.set()
  first.join(60)
  assert found[0].status_code == 200


class _Client:
  """One request by the bare protocol: its body arrives, and then the client leaves when told to."""

  def __init__(self, body: bytes, whole: bool):
    self.messages = [dict(type='http.request', body=body, more_body=not whole)]
    self.leave, self.sent = asyncio.Event(), []

  async def receive(self):
    if self.messages:
      return self.messages.pop(0)
    await self.leave.wait()
    return dict(type='http.disconnect')

  async def send(self, message):
    self.sent.append(message)


@pytest.mark.parametrize('whole', [True, False])
def test_the_texts_of_a_client_that_leaves_are_withdrawn_and_no_others(whole):
  free, began, done = threading.Event(), threading.Event(), []

  def run(items):
    began.set()
    assert free.wait(60)
    done.extend(items)
    return _rows(items)

  async def both():
    queue = batching.Batcher(run, 1, 0.0, 100)
    app = service.app(service.Model('toy', 'classes', LABELS, ()), queue, LIMITS)
    scope = dict(
      type='http', method='POST', path='/predict', raw_path=b'/predict', query_string=b'',
      headers=[(b'content-type', b'application/json')], http_version='1.1', scheme='http',
      server=('127.0.0.1', 80), client=('127.0.0.1', 1), root_path='', asgi=dict(version='3.0'),
    )  # fmt: skip
    first = queue.submit(['first'])
    await asyncio.to_thread(began.wait, 60)
    leaves, stays = (
      _Client(b'{"inputs": ["leaves"]}'[: None if whole else 9], whole),
      _Client(b'{"inputs": ["stays"]}', True),
    )
    tasks = [asyncio.create_task(app(dict(scope), c.receive, c.send)) for c in (leaves, stays)]
    while queue.waiting < 1 + whole:
      await asyncio.sleep(0.001)
    leaves.leave.set()
    await tasks[0]
    free.set()
    await tasks[1]
    assert first.result(60)
    assert app.statuses == {499: 1, 200: 1}
    assert stays.sent[0]['status'] == 200
    await asyncio.to_thread(queue.close, 60)

  asyncio.run(both())
  assert done == ['first', 'stays']
