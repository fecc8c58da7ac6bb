"""A distilled classifier over HTTP: python -m kdjax.serve DIR [--port=8000]; docs/serving.md."""

import logging
import os
import signal
import socket
import sys

from absl import flags

from kdjax import allocator, batching, main, usage

REMEDY = "kdjax.serve needs fastapi and uvicorn: pip install 'kdjax[serve]'"


def classifier(folder: str, batch_size: int, max_length: int | None):
  """A predict.Classifier of text with its programs compiled.

  Raises:
    ValueError: no model, one of images, or classes of one name.
  """
  from kdjax import log, predict

  found = predict.of_text(folder, batch_size, max_length)
  shapes = found.warm()
  log.logger.info('Compiled %d programs, of %d x %d to %d x %d texts x tokens.', len(shapes),
                  *shapes[0], *shapes[-1])  # fmt: skip
  return found


def bind(host: str, port: int) -> socket.socket:
  """A socket that is bound and does not listen yet, so that nobody is answered too early.

  Raises:
    OSError: the address is taken, or not of this machine.
  """
  try:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(address)
  except OSError as e:
    raise OSError(f'--host={host} --port={port}: {e.strerror or e}') from e
  return found


def url(bound: socket.socket) -> str:
  """Of a socket; with the port that it got, where any would do."""
  host, port = bound.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def _serve(folder: str, f) -> None:
  with main.one_line_errors():
    try:
      import uvicorn

      from kdjax import log, service
    except ImportError as e:
      raise ImportError(f'{REMEDY} ({e})') from e
    if f.queue < f.max_inputs:
      raise ValueError(f'--queue={f.queue} has no room for --max_inputs={f.max_inputs}')
    bound = bind(f.host, f.port)
    clf = classifier(folder, f.batch_size, f.max_length)

  def run(inputs):
    return _both(clf.at_once, inputs)

  queue = batching.Batcher(run, f.batch_size, f.wait_ms / 1e3, f.queue)
  import jax

  model = service.Model(folder, clf.kind, clf.labels, tuple(map(str, jax.devices())))
  limits = service.Limits(f.max_inputs, f.max_chars, f.max_bytes)
  config = uvicorn.Config(
    service.app(model, queue, limits), lifespan='off', ws='none', log_config=None,
    log_level='warning', access_log=f.access_log, timeout_graceful_shutdown=f.grace,
  )  # fmt: skip
  _log_as_we_do(log.logger, f.access_log)
  server = uvicorn.Server(config)

  def stop(*_):
    server.should_exit = True

  # uvicorn hears the signals while it runs, and raises them again when it has ended.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
  bound.listen(config.backlog)
  log.logger.info('Serving %s on %s', folder, url(bound))
  server.run([bound])
  ended = queue.close(1.0)  # the last batch: of who asked, all are answered or given up
  log.logger.info('Stopped. Texts: %d.', sum(size * n for size, n in queue.sizes.items()))
  if not ended:  # nothing waits for a model that does not come back
    os._exit(0)


def _both(call, inputs: list) -> list:
  """Answers to texts and pairs, which no tokenizer takes together, in their order."""
  out = [None] * len(inputs)
  for pair in (False, True):
    places = [i for i, one in enumerate(inputs) if isinstance(one, tuple) == pair]
    if places:
      for i, row in zip(places, call([inputs[i] for i in places]), strict=True):
        out[i] = row
  return out


def _log_as_we_do(ours: logging.Logger, access: bool) -> None:
  theirs = logging.getLogger('uvicorn')
  theirs.handlers, theirs.propagate = list(ours.handlers), False
  if access:
    logging.getLogger('uvicorn.access').setLevel(logging.INFO)


def _main(argv: list[str]) -> None:
  if len(argv) != 2:
    sys.exit('error: one folder of a model: python -m kdjax.serve DIR [--port=8000]')
  for number in (signal.SIGTERM, signal.SIGINT):  # nobody is answered yet
    signal.signal(number, lambda *_: sys.exit(0))
  allocator.keep_pages()
  main.start(stoppable=False)
  _serve(argv[1], flags.FLAGS)


def run() -> None:
  """Read the flags and do it."""
  flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0: all of this machine.')
  flags.DEFINE_integer('port', 8000, '0: a free one, which the log names.', 0, 65535)
  flags.DEFINE_integer('batch_size', 32, 'Texts that are computed together, at most.', 1)
  flags.DEFINE_float('wait_ms', 5.0, 'Milliseconds that a text waits for others.', 0, 1000)
  flags.DEFINE_integer(
    'max_length', None, 'Tokens of a text; longer ones are cut. As in training, or 128.', 1
  )
  flags.DEFINE_integer('max_inputs', 128, 'Texts of a request.', 1)
  flags.DEFINE_integer('max_chars', 10_000, 'Characters of a text.', 1)
  flags.DEFINE_integer('max_bytes', 1 << 20, 'Bytes of the body of a request.', 1)
  flags.DEFINE_integer('queue', 1024, 'Texts that may wait; 503 beyond.', 1)
  flags.DEFINE_float('grace', 10.0, 'Seconds to answer what waits, when told to stop.', 0)
  flags.DEFINE_bool('access_log', False, 'A line for each request.')
  main.debug()
  if usage.asked(sys.argv):
    usage.show(usage.serve())
  main.go(_main)


if __name__ == '__main__':
  run()
