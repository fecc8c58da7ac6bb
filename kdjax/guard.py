"""What is not a number stops a run, or is passed over, and says where it came from."""

import json
import pathlib

import jax
import numpy as np

from kdjax import hosts, log

FILE = 'nonfinite.jsonl'
POLICIES = ('stop', 'skip')


class Guard:
  """Watches the metrics of each step; remembers the rows of the batches that it has not seen yet.

  A step that went wrong is written to workdir/nonfinite.jsonl: step, player, metrics, and the
  `index` of the batch's rows in the train split. 'stop' ends the run there, before its state is
  saved. 'skip' goes on: the step has already left everything as it was (see train.make_step).
  """

  def __init__(self, title: str, workdir: pathlib.Path, policy: str):
    self._title, self._path, self._policy = title, workdir / FILE, policy
    self._rows: dict[int, np.ndarray] = {}

  def watch(self, step: int, batch: dict[str, np.ndarray]) -> None:
    """Remember whose step it is."""
    self._rows[step] = batch['index']

  def fetch(self, pending: list, last: int) -> list[dict[str, float]]:
    """Metrics of the steps up to `last` as plain numbers.

    Raises:
      FloatingPointError: something is not finite, and the policy is to stop.
    """
    rows = [{k: float(v) for k, v in row.items()} for row in jax.device_get(pending)]
    for step, row in enumerate(rows, last - len(rows) + 1):
      bad = sorted(name for name, value in row.items() if not np.isfinite(value))
      examples = self._rows.pop(step, None)
      if bad and examples is not None:  # None: seen before the run was stopped, and said then
        self._say(step, bad, row, examples)
    return rows

  def _say(self, step: int, bad: list[str], row: dict[str, float], examples: np.ndarray) -> None:
    player = bad[0].partition('/')[0]
    terms = [name.partition('/')[2] for name in bad]
    record = dict(step=step, player=player, metrics={k: str(v) for k, v in row.items()})
    record['examples'] = [int(i) for i in examples]
    if hosts.first():  # all see the same metrics
      with self._path.open('a', encoding='utf8') as file:
        file.write(json.dumps(record) + '\n')
    said = (
      f"{self._title}: step {step}, {player}'s turn: {', '.join(terms)} not finite; the batch's "
      f'examples are in {self._path}'
    )
    if self._policy == 'stop':
      raise FloatingPointError(
        f'{said}. Lower config.train.rate, set config.train.clip, look at those rows, or let such '
        "steps pass by config.train.nonfinite='skip'"
      )
    log.logger.warning(said + '; the step is skipped')
