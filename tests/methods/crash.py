"""Runs of train.fit that die where they are told to, on programs that are compiled already."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import checkpoint, log, sharding, stop, train
from kdjax.data import batches, tokens
from tests import tiny

STEPS = 6


class Death(BaseException):
  """Nothing catches it, as nothing catches SIGKILL."""


def dataset(rng: np.random.Generator, rows: int = 40) -> batches.Dataset:
  """Text in whose rows a method's memory knows its way: labels and index are tiny.dataset's."""
  batch = tiny.batch(rng, rows)
  ids = tokens.Tokens(batch['tokens'], batch['segments'], batch['mask'].sum(1).astype(np.int32))
  known = tiny.dataset(rows=rows)
  ordinary = np.arange(tiny.VOCAB) >= tiny.SPECIAL
  return known._replace(tokens=ids, ordinary=ordinary)


def score(params) -> dict[str, float]:
  """Deterministic, sensitive to every bit; interruptible, as an evaluation is."""
  stop.point()
  total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(params))
  return dict(accuracy=float(total % 0.01))


class Run:
  """One method's game, to be played to its end again and again."""

  def __init__(self, game, data, patch):
    self._method, self._start, self._mesh, _ = game
    players = list(self._method.players)
    self._method = self._method._replace(turn=lambda step, steps: players[step % len(players)])
    self._data, self._left = data, None
    self.events = 0
    patch.setattr(train, 'start', self._fresh)
    for owner, name in (
      (checkpoint.Store, '_save'),
      (checkpoint, '_write_sums'),
      (log.Writer, 'write'),
      (sharding, 'put'),
    ):
      patch.setattr(owner, name, self._mortal(getattr(owner, name)))

  def _fresh(self, *args):
    del args
    return self._start._replace(state=jax.tree.map(jnp.copy, self._start.state))

  def _mortal(self, call):
    def wrapped(*args):
      self._event()
      found = call(*args)
      self._event()
      return found

    return wrapped

  def _event(self) -> None:
    self.events += 1
    if self._left is not None:
      self._left -= 1
      if self._left < 0:
        self._left = None
        self.kill()

  def kill(self) -> None:
    """How it dies: at once; a test may have it told to stop instead."""
    raise Death

  def play(self, workdir, after: int | None = None) -> train.Result:
    """To the end, or until so many events have passed."""
    self._left = after
    c = tiny.train_fields(steps=STEPS, eval_every=3, log_every=2)
    (found,) = train.fit(
      self._method, {}, self._data, score, c, (tiny.LENGTH,), workdir, self._mesh, 'run'
    )
    return found
