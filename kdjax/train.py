"""The loop that all methods share: a jitted step per player, evaluation, checkpoints, bar."""

import collections
import contextlib
import itertools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from kdjax import checkpoint, log, optim, sharding
from kdjax.data import batches
from kdjax.methods import base


class TrainState(NamedTuple):
  """All that changes: what players own, their optimizers, the method's memory."""

  step: jax.Array  # i32[]
  params: dict[str, Any]
  opt: dict[str, Any]
  memory: Any


class Result(NamedTuple):
  """What a run leaves: the best parameters by the first metric, and how they scored."""

  params: dict[str, Any]
  metrics: dict[str, float]
  step: int
  steps: int


def make_step(
  name: str, player: base.Player, optimizer, mesh, layout=None, accumulate: int = 1
) -> Callable:
  """Jitted (state, frozen, batch, key) -> (state, metrics) of one player's turn.

  frozen: parameters that nobody owns; they get no gradient. layout: shardings of the state, None
  where it is whole on every device. The state is donated. With accumulate = A, the batch goes
  through the loss in A parts, and one update follows the mean gradient; a method's in-batch
  partners are then those of the part.
  """

  def step(state: TrainState, frozen, batch, key):
    key = jax.random.fold_in(key, state.step)
    owned = {k: state.params[k] for k in player.owns}
    rest = frozen | {k: v for k, v in state.params.items() if k not in owned}

    def loss(owned, memory, batch, key):
      return player.loss(rest | owned, memory, batch, key)

    def part(carry, x):
      memory, total = carry
      (value, (memory, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(owned, memory, *x)
      total = jax.tree.map(lambda a, b: a + b / accumulate, total, grads)
      return (memory, total), metrics | dict(loss=value)

    # Each device's own rows are dealt out among the parts: nothing moves between devices.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, accumulate)
    zeros = jax.tree.map(jnp.zeros_like, owned)
    if accumulate == 1:
      carry, metrics = part((state.memory, zeros), (batch, keys[0]))
    else:
      carry, metrics = jax.lax.scan(part, (state.memory, zeros), (parts, keys))
    memory, grads = carry
    metrics = jax.tree.map(jnp.mean, metrics) | dict(grad_norm=optax.tree.norm(grads))

    updates, opt = optimizer.update(grads, state.opt[name], owned)
    params = state.params | optax.apply_updates(owned, updates)
    new = TrainState(state.step + 1, params, state.opt | {name: opt}, memory)
    return new, {f'{name}/{k}': v for k, v in metrics.items()}

  same, rows = sharding.replicated(mesh), sharding.rows(mesh)
  layout = layout or same
  return jax.jit(
    step,
    in_shardings=(layout, same, rows, same),
    out_shardings=(layout, same),
    donate_argnums=0,
  )


class Game(NamedTuple):
  """A method ready to be stepped."""

  state: TrainState
  frozen: dict[str, Any]
  steps: dict[str, Callable]
  key: jax.Array


def start(method: base.Method, params, data, c, total: int, mesh) -> Game:
  """Initial state on the mesh, and a jitted step per player.

  c: the optimizer's fields, batch_size, accumulate, seed. total: steps of all players together.
  """
  k_init, k_step = jax.random.split(jax.random.key(c.seed))
  known = base.Data(data.index, data.label, c.batch_size, total)
  extra, memory = method.init(k_init, params, known)
  params = params | extra
  owned = {name for player in method.players.values() for name in player.owns}
  turns = collections.Counter(method.turn(step, total) for step in range(total))
  makers = {
    name: optim.make(c, turns[name], total, **player.optimizer)
    for name, player in method.players.items()
  }
  same = sharding.replicated(mesh)
  # A copy: the state is donated, and the caller's parameters (another run's start) must survive.
  trained = jax.tree.map(jnp.copy, {k: v for k, v in params.items() if k in owned})
  opt = {
    name: makers[name].init({k: trained[k] for k in player.owns})
    for name, player in method.players.items()
  }
  state = TrainState(jnp.zeros((), jnp.int32), trained, opt, memory)
  frozen = {k: v for k, v in params.items() if k not in owned}
  layout = sharding.banks(state, mesh)
  steps = {
    name: make_step(name, player, makers[name], mesh, layout, c.accumulate)
    for name, player in method.players.items()
  }
  return Game(jax.device_put(state, layout), jax.device_put(frozen, same), steps, k_step)


def total_steps(c, examples: int) -> tuple[int, int]:
  """(steps, steps per epoch): c.steps where given, else c.epochs over the data.

  Raises:
    ValueError: no step at all.
  """
  per_epoch = batches.steps_per_epoch(examples, c.batch_size)
  total = c.steps or round(c.epochs * per_epoch)
  if total < 1:
    raise ValueError(f'{c.epochs} epochs of {per_epoch} steps are no step: raise epochs or steps')
  return total, per_epoch


def fit(
  method: base.Method,
  params: dict[str, Any],
  data: batches.Dataset,
  score: Callable[[Any], dict[str, float]],
  c,
  buckets: tuple[int, ...],
  workdir: pathlib.Path,
  mesh,
  title: str,
) -> Result:
  """Train to the end, from the last checkpoint in the workdir where there is one.

  Args:
    params: initial parameters by name, the frozen ones too.
    score: student parameters -> metrics; the first one selects the best checkpoint.
    c: config.train: batch_size, epochs or steps, optimizer, eval_every, log_every, seed.
  """
  total, per_epoch = total_steps(c, len(data.index))
  sharding.check_batch(mesh, c.batch_size, c.accumulate, 'train.batch_size')
  log.logger.info(
    f'{title}: {total} steps of {c.batch_size} = {total / per_epoch:.2f} epochs of '
    f'{len(data.index)} examples'
  )
  game = start(method, params, data, c, total, mesh)
  state = game.state
  last, best = (checkpoint.Store(workdir / 'checkpoints' / name) for name in ('last', 'best'))
  meta = dict(best=None, metrics={}, best_step=0)
  if last.step() is not None:
    state, meta = last.restore(state)
    log.logger.info(f'{title}: going on from step {int(state.step)}')
  begin = int(state.step)
  best.drop_after(begin)
  every = c.eval_every or per_epoch
  stream = batches.train_batches(data, c.batch_size, buckets, c.seed, begin)
  clock, pending, shown = log.Clock(), [], {}
  with (
    contextlib.closing(log.Writer(workdir, begin, c.tensorboard)) as writer,
    tqdm.tqdm(total=total, initial=begin, desc=title, unit='step', dynamic_ncols=True) as bar,
  ):
    for done, batch in enumerate(itertools.islice(stream, total - begin), begin + 1):
      step = game.steps[method.turn(done - 1, total)]
      state, metrics = step(state, game.frozen, sharding.put(batch, mesh), game.key)
      pending.append(metrics)
      rest = done % every == 0 or done == total
      if done % c.log_every == 0 or rest:  # a row never spans a checkpoint: resumed logs are equal
        row = _means(pending, title, done)
        row['examples_per_second'] = clock.rate(c.batch_size * len(pending))
        pending = []
        writer.write(done, row)
        shown['loss'] = next(v for k, v in row.items() if k.endswith('/loss'))
        shown['examples/s'] = row['examples_per_second']
      if rest:
        scores = score(state.params['student'])
        name, value = next(iter(scores.items()))
        shown[name] = value
        writer.write(done, {f'validation/{k}': v for k, v in scores.items()})
        if meta['best'] is None or value > meta['best']:
          meta = dict(best=value, metrics=scores, best_step=done)
          best.save(done, state.params['student'], meta)
        last.save(done, state, meta)
        clock = log.Clock()
      bar.set_postfix({k: f'{v:.4g}' for k, v in shown.items()}, refresh=False)
      bar.update()
  student, kept = best.restore(state.params['student'])
  last.close()
  best.close()
  return Result(student, kept['metrics'], kept['best_step'], total)


def _means(pending: list[dict[str, jax.Array]], title: str, step: int) -> dict[str, float]:
  """Mean of each metric over the steps that had it."""
  values = collections.defaultdict(list)
  for metrics in jax.device_get(pending):
    for name, value in metrics.items():
      values[name].append(value)
  row = {name: float(np.mean(v)) for name, v in values.items()}
  bad = [name for name, value in row.items() if not np.isfinite(value)]
  if bad:
    raise FloatingPointError(f'{title}: {", ".join(bad)} is not finite by step {step}')
  return row
