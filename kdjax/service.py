"""The HTTP side of kdjax.serve: requests are checked, queued, and answered in JSON."""

import asyncio
import collections
import time
from typing import Annotated, Any, NamedTuple

import fastapi
import numpy as np
import pydantic
from fastapi import responses
from starlette import requests
from starlette.exceptions import HTTPException

import kdjax
from kdjax import batching, log, quote

RETRY = 1  # seconds, of Retry-After
_JSON = 'application/json'
_CHARSETS = ('', 'charset=utf-8', 'charset=utf8')
_LEFT = 499  # nobody reads it; it is counted
_NAMES = {400: 'bad_request', 404: 'not_found', 405: 'method_not_allowed'}


class Limits(NamedTuple):
  """What a request may have: texts, characters of each (of a pair, of each half), bytes in all."""

  max_inputs: int
  max_chars: int
  max_bytes: int


class Model(NamedTuple):
  """What is served: its name, its kind (tasks.KINDS), class names, and where it computes."""

  name: str
  kind: str
  labels: tuple[str, ...]
  devices: tuple[str, ...]


class ClassPrediction(pydantic.BaseModel):
  """The likeliest class, and probabilities that sum to 1 (top_k: the likeliest, in their order)."""

  label: str
  probabilities: dict[str, float]


class LabelsPrediction(pydantic.BaseModel):
  """All labels beyond 0.5, and the probability of each (top_k: the likeliest, in their order)."""

  labels: list[str]
  probabilities: dict[str, float]


class ScorePrediction(pydantic.BaseModel):
  """Of regression."""

  score: float


class Error(pydantic.BaseModel):
  """field: the part of the request that is wrong, `inputs[3]`; null where it is none."""

  type: str
  message: str
  field: str | None


class Problem(pydantic.BaseModel):
  """The body of every answer that is not 200."""

  error: Error


class Refused(Exception):
  """Becomes an answer of this status."""

  def __init__(self, status: int, type: str, message: str, field: str | None = None):
    super().__init__(message)
    self.status, self.error = status, dict(type=type, message=message, field=field)


class _Counted:
  """Around the app: answers by status, and seconds of those of /predict, the last 1,000."""

  def __init__(self, app):
    self._app = app
    self.statuses, self.seconds = collections.Counter(), collections.deque(maxlen=1000)

  async def __call__(self, scope, receive, send):
    begun = time.perf_counter()

    async def noted(message):
      if message['type'] == 'http.response.start':
        self.statuses[message['status']] += 1
        if scope['path'] == '/predict' and message['status'] == 200:
          self.seconds.append(time.perf_counter() - begun)
      await send(message)

    await self._app(scope, receive, noted)


def app(model: Model, queue: batching.Batcher, limits: Limits):
  """An ASGI app over a queue of texts and pairs, whose answers are rows of probabilities."""
  api = fastapi.FastAPI(title='kdjax', version=kdjax.__version__, description=model.name)
  api.router.redirect_slashes = False  # what is not here is said in JSON
  counted = _Counted(api)
  asked = _ask(limits)
  said = dict(classes=ClassPrediction, multilabel=LabelsPrediction, regression=ScorePrediction)
  prediction = said[model.kind]

  class Predictions(pydantic.BaseModel):
    """One for each input, in their order."""

    predictions: list[prediction]

  @api.get('/health')
  async def health() -> dict[str, Any]:
    """Answers when every program is compiled, and not before."""
    return dict(status='ready', **model._asdict(), version=kdjax.__version__)

  @api.get('/metrics')
  async def metrics() -> dict[str, Any]:
    """Counts since the start; milliseconds of the last 1,000 answers of /predict."""
    sizes, taken = dict(queue.sizes), list(counted.seconds)
    quantiles = np.percentile(taken, (50, 95, 99)) if taken else ()
    return dict(
      answers={str(status): n for status, n in counted.statuses.items()},
      waiting=queue.waiting,
      texts=sum(size * n for size, n in sizes.items()),
      batches={str(size): n for size, n in sorted(sizes.items())},
      milliseconds={f'p{q}': 1e3 * s for q, s in zip((50, 95, 99), quantiles, strict=False)},
    )

  body = dict(required=True, content={_JSON: dict(schema=asked.model_json_schema())})
  problems = {status: dict(model=Problem) for status in (400, 413, 415, 422, 500, 503)}

  @api.post(
    '/predict',
    response_model=Predictions,
    responses=problems,
    openapi_extra=dict(requestBody=body),
  )
  async def predict(request: fastapi.Request) -> fastapi.Response:
    """Predictions for texts, or for pairs of texts."""
    try:
      return responses.JSONResponse(dict(predictions=await predictions(request)))
    except asyncio.CancelledError as e:  # uvicorn does it at the end of the grace
      raise Refused(503, 'stopping', 'the service stops') from e

  async def predictions(request: fastapi.Request) -> list[dict]:
    ask = _parsed(await _body(request, limits.max_bytes), asked)
    if len({type(one) for one in ask.inputs}) > 1:
      raise Refused(422, 'mixed', 'single texts and pairs do not go into one request', 'inputs')
    if ask.top_k is not None and model.kind == 'regression':
      raise Refused(422, 'invalid', 'the model predicts a score: there is no top_k', 'top_k')
    try:
      rows = await _answered(request, queue.submit(ask.inputs))
    except requests.ClientDisconnect:
      raise
    except batching.Full as e:
      raise Refused(503, 'overloaded', f'{e}: try again later') from e
    except Exception as e:
      log.logger.error('The model failed: %s: %s', type(e).__name__, quote.error(e))
      raise Refused(500, 'model_failed', 'the model failed on this request') from e
    return [_prediction(row, model, ask.top_k) for row in rows]

  @api.exception_handler(Refused)
  async def refused(request, e: Refused):
    headers = {413: {'Connection': 'close'}, 503: {'Retry-After': str(RETRY)}}.get(e.status)
    return responses.JSONResponse(dict(error=e.error), e.status, headers)

  @api.exception_handler(requests.ClientDisconnect)
  async def left(request, e: requests.ClientDisconnect):
    return fastapi.Response(status_code=_LEFT)

  @api.exception_handler(HTTPException)
  async def outside(request, e: HTTPException):
    error = dict(type=_NAMES.get(e.status_code, 'http'), message=str(e.detail), field=None)
    return responses.JSONResponse(dict(error=error), e.status_code, e.headers)

  @api.exception_handler(Exception)
  async def wrong(request, e: Exception):
    error = dict(type='internal', message='an error of the service', field=None)
    return responses.JSONResponse(dict(error=error), 500)

  return counted


def _ask(limits: Limits) -> type[pydantic.BaseModel]:
  """The body of a request; the limits are in its schema."""
  text = Annotated[str, pydantic.Field(max_length=limits.max_chars)]
  kind = lambda one: 'pair' if isinstance(one, (list, tuple)) else 'text'  # noqa: E731
  one = Annotated[
    Annotated[text, pydantic.Tag('text')] | Annotated[tuple[text, text], pydantic.Tag('pair')],
    pydantic.Discriminator(kind),  # so that an error speaks of one of them
  ]
  bounds = pydantic.Field(min_length=1, max_length=limits.max_inputs)

  class Ask(pydantic.BaseModel):
    """Texts, or pairs of texts; top_k: how many probabilities of each, the highest."""

    model_config = pydantic.ConfigDict(extra='forbid', strict=True)
    inputs: Annotated[list[one], bounds, pydantic.FailFast()]
    top_k: Annotated[int, pydantic.Field(ge=1)] | None = None

  return Ask


async def _body(request: fastapi.Request, most: int) -> bytes:
  """At most so many bytes, whatever the request says of its length.

  Raises:
    Refused: 413 or 415.
  """
  # A page of another site may send text/plain to this machine, but no JSON unless it is allowed to.
  kind, _, charset = request.headers.get('content-type', '').lower().partition(';')
  if kind.strip() != _JSON or charset.strip().replace('"', '') not in _CHARSETS:
    raise Refused(415, 'unsupported_media_type', f'send Content-Type: {_JSON}, in UTF-8')
  if request.headers.get('content-encoding', 'identity') != 'identity':
    raise Refused(415, 'unsupported_media_type', 'send the body as it is, without an encoding')
  parts, size = [], 0
  async for part in request.stream():
    size += len(part)
    if size <= most:
      parts.append(part)
    elif size > 8 * most:
      break
    else:  # read on and forget: who is still sending does not read an answer
      parts.clear()
  if size > most:
    raise Refused(413, 'too_large', f'a request has at most {most:,} bytes')
  return b''.join(parts)


def _parsed(body: bytes, asked: type[pydantic.BaseModel]):
  """The request.

  Raises:
    Refused: 400 where it is no JSON, 422 where it is not what is asked for.
  """
  try:
    return asked.model_validate_json(body)
  except pydantic.ValidationError as e:
    first = e.errors(include_url=False, include_input=False, include_context=False)[0]
  if first['type'] == 'json_invalid':
    raise Refused(400, 'not_json', quote.error(first['msg']))
  # inputs, 3, 'pair', 1 -> inputs[3][1]
  field, *places = first['loc'] or (None,)
  where = ''.join(f'[{place}]' for place in places if isinstance(place, int))
  field = field + where if field and field.isprintable() else None
  raise Refused(422, 'invalid', quote.error(first['msg']), field and quote.error(field))


async def _answered(request: fastapi.Request, future) -> list:
  """What the future brings.

  Raises:
    ClientDisconnect: the client has left before; its texts are withdrawn.
  """
  left = asyncio.ensure_future(request.receive())  # after the body nothing comes but the end
  answer = asyncio.wrap_future(future)
  try:
    await asyncio.wait((left, answer), return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
      raise requests.ClientDisconnect
    return answer.result()
  finally:
    left.cancel()
    answer.cancel()


def _prediction(row, model: Model, top_k: int | None) -> dict:
  if model.kind == 'regression':
    return dict(score=float(row))
  order = np.argsort(-row, kind='stable')[:top_k] if top_k else range(len(row))
  probabilities = {model.labels[i]: float(row[i]) for i in order}
  if model.kind == 'classes':
    return dict(label=model.labels[row.argmax()], probabilities=probabilities)
  on = [name for name, p in zip(model.labels, row, strict=True) if p > 0.5]
  return dict(labels=on, probabilities=probabilities)
