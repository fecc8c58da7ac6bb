"""What is not a number stops a run, or is passed over, and says where it came from."""

import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from kdjax import hosts, log, seeds

FILE = 'nonfinite.jsonl'
POLICIES = ('stop', 'skip')


class Guard:
  """Watches the metrics of each step; remembers the rows of the batches that it has not seen yet.

  A step that went wrong is written to workdir/nonfinite.jsonl: step, player, metrics, and the
  `index` of the batch's rows in the train split. 'stop' ends the run there, before its state is
  saved. 'skip' goes on: the step has already left everything as it was (see train.make_step).
  Of several seeds, each that went wrong is written and named.
  """

  def __init__(self, title: str, workdir: pathlib.Path, policy: str, numbers: Sequence[int] = (0,)):
    self._title, self._path, self._policy = title, workdir / FILE, policy
    self._seeds = numbers
    self._rows: dict[int, np.ndarray] = {}

  def watch(self, step: int, batch: dict[str, np.ndarray]) -> None:
    """Remember whose step it is."""
    self._rows[step] = batch['index']

  def fetch(self, pending: list, last: int) -> list[dict[str, float | list[float]]]:
    """Metrics of the steps up to `last` as plain numbers; of several seeds, a list of each.

    Raises:
      FloatingPointError: something is not finite, and the policy is to stop.
    """
    rows = [{k: np.asarray(v).tolist() for k, v in row.items()} for row in jax.device_get(pending)]
    for step, row in enumerate(rows, last - len(rows) + 1):
      examples = self._rows.pop(step, None)
      if examples is not None:  # None: seen before the run was stopped, and said then
        self._check(step, row, examples)
    return rows

  def _check(self, step: int, row: dict, examples: np.ndarray) -> None:
    many, said = len(self._seeds) > 1, []
    each = [own for (own,) in seeds.rows([row], len(self._seeds))]
    for i, (seed, own) in enumerate(zip(self._seeds, each, strict=True)):
      bad = sorted(name for name, value in own.items() if not np.isfinite(value))
      if bad:
        player = bad[0].partition('/')[0]
        of = dict(seed=seed) if many else {}
        record = of | dict(step=step, player=player, metrics={k: str(v) for k, v in own.items()})
        record['examples'] = [int(i) for i in (examples[i] if many else examples)]
        if hosts.first():  # all see the same metrics
          with self._path.open('a', encoding='utf8') as file:
            file.write(json.dumps(record) + '\n')
        terms = ', '.join(name.partition('/')[2] for name in bad)
        said.append(f"{player}'s turn: " + f'seed {seed}: ' * many + terms)
    if said:
      self._say(f'{self._title}: step {step}, {"; ".join(said)} not finite')

  def _say(self, what: str) -> None:
    said = f"{what}; the batch's examples are in {self._path}"
    if self._policy == 'stop':
      raise FloatingPointError(
        f'{said}. Lower config.train.rate, set config.train.clip, look at those rows, or let such '
        "steps pass by config.train.nonfinite='skip'"
      )
    log.logger.warning(said + '; the step is skipped')
