"""What a run says: a jsonl file, TensorBoard, Weights & Biases, and lines on the terminal."""

import importlib.util
import json
import logging
import pathlib
import secrets
import time

import tqdm
from absl import logging as absl_logging

logger = logging.getLogger('kdjax')


class _Above(logging.StreamHandler):
  """Lines above the one that tells of progress, never in the midst of it."""

  def emit(self, record: logging.LogRecord) -> None:
    with tqdm.tqdm.external_write_mode(file=self.stream):
      super().emit(record)


def setup(level: int = logging.INFO, process: int = 0) -> None:
  """Lines of the 'kdjax' logger go to standard error, bare.

  process: of several, its number: those behind the first tell of warnings and errors alone.
  """
  if not logger.handlers:
    handler = _Above()
    handler.setFormatter(logging.Formatter(f'process {process}: ' * bool(process) + '%(message)s'))
    logger.addHandler(handler)
    logger.propagate = False
  logger.setLevel(max(level, logging.WARNING) if process else level)
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells of every file it opens
  # What libraries warn of are bare lines too, said once, and above the line of progress.
  theirs = absl_logging.get_absl_handler()
  if theirs in logging.root.handlers:
    logging.root.handlers = [*logger.handlers, *logging.root.handlers]
    logging.root.removeHandler(theirs)
  logging.getLogger('huggingface_hub').propagate = False  # it has a handler of its own


class Writer:
  """Metrics by step: workdir/log.jsonl, TensorBoard event files, Weights & Biases.

  What a run that goes on will write again is dropped on opening: rows beyond step `start`, and
  evaluations beyond step `scored`. So each step is there once. wandb: the project; '': not there.
  """

  def __init__(
    self, workdir: pathlib.Path, start: int, scored: int, tensorboard: bool = True, wandb: str = ''
  ):
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / 'log.jsonl'
    kept = []
    if self._path.exists():
      for line in self._path.read_text(encoding='utf8').splitlines():
        try:
          row = json.loads(line)
          rated = any(name.startswith('validation/') for name in row)
          if row['step'] <= (scored if rated else start):
            kept.append(row)
        except (json.JSONDecodeError, KeyError):
          break  # the torn last line of a killed run
    # Aside and renamed: a run that is killed before its first row has lost none.
    spare = workdir / 'log.jsonl.tmp'
    spare.write_text(''.join(json.dumps(row) + '\n' for row in kept), encoding='utf8')
    spare.replace(self._path)
    self._file = self._path.open('a', encoding='utf8')
    self._board = None
    if tensorboard:
      import tensorboardX  # imports torch where that is installed: only when asked for

      self._board = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=start + 1 if start else None
      )
    self._online = _Online(workdir, wandb, kept) if wandb else None

  def write(self, step: int, values: dict[str, float]) -> None:
    """One row; values are plain floats."""
    if self._online:
      self._online.write(step, **values)
    self._file.write(json.dumps(dict(step=step, **values)) + '\n')
    self._file.flush()
    if self._board:
      for name, value in values.items():
        self._board.add_scalar(name, value, step)

  def close(self) -> None:
    """Flush and close all."""
    self._file.close()
    for other in (self._board, self._online):
      if other:
        other.close()


def check(wandb: str) -> None:
  """ValueError where config.train.wandb asks for what is not installed."""
  if wandb and not importlib.util.find_spec('wandb'):
    raise ValueError(f"config.train.wandb={wandb!r} needs wandb: pip install 'kdjax[wandb]'")


class _Online:
  """A run of Weights & Biases, which a run that goes on goes on with: workdir/wandb.json names it.

  There no row can be taken back, but what is computed again is as it was: of all that the log has,
  now and later, what is there already is not sent. Offline nothing is: the last of the folders that
  a run leaves is the whole of it.
  """

  def __init__(self, workdir: pathlib.Path, project: str, kept: list[dict]):
    import wandb  # only when asked for

    path, run = workdir / 'wandb.json', workdir
    if not path.exists():
      spare = path.with_name('wandb.json.tmp')
      spare.write_text(json.dumps(dict(id=secrets.token_hex(4))), encoding='utf8')
      spare.replace(path)
    if not (run / 'run.json').exists() and (run.parent / 'run.json').exists():
      run = run.parent  # of many seeds, one has a folder in that of the run
    asked = run / 'run.json'
    try:
      self._run = wandb.init(
        project=project,
        id=json.loads(path.read_text(encoding='utf8'))['id'],
        name=str(workdir.relative_to(run.parent)),
        group=run.parent.name,
        config=json.loads(asked.read_text(encoding='utf8')) if asked.exists() else {},
        dir=str(workdir),
        resume='allow',
        reinit='create_new',
        settings=wandb.Settings(console='off', silent=True),
      )
    except Exception as e:
      raise ValueError(
        f'config.train.wandb={project!r}: {e}. `wandb login` first, or set WANDB_MODE=offline'
      ) from e
    where = self._run.dir if self._run.offline else self._run.url
    logger.info(f'{self._run.name}: Weights & Biases, {where}')
    self._first = self._run.step  # that is not there
    for row in kept:
      self.write(**row)

  def write(self, step: int, **values: float) -> None:
    """One row, unless it is there."""
    if step >= self._first:
      self._run.log(values, step=step)

  def close(self) -> None:
    """When all is written or sent."""
    self._run.finish()


class Nobody:
  """A Writer that writes nothing: of several hosts, the first writes."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Nothing."""

  def close(self) -> None:
    """Nothing."""


class Clock:
  """Examples per second since the last call of `rate`."""

  def __init__(self):
    self._last = time.perf_counter()

  def rate(self, examples: int) -> float:
    """Examples per second; starts the next interval."""
    now = time.perf_counter()
    self._last, past = now, now - self._last
    return examples / max(past, 1e-9)
