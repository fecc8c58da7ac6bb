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

from kdjax import checkpoint, guard, hosts, log, optim, sharding, stop
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
  name: str,
  player: base.Player,
  optimizer,
  mesh,
  layout=None,
  frozen_layout=None,
  accumulate: int = 1,
  skip: bool = False,
) -> Callable:
  """Jitted (state, frozen, batch, key) -> (state, metrics) of one player's turn.

  frozen: parameters that nobody owns; they get no gradient. layout, frozen_layout: shardings of the
  state and of those, None where they are whole on every device. The state is donated. With
  accumulate = A, the batch goes through the loss in A parts, and one update follows the mean
  gradient; a method's in-batch partners are then those of the part. skip: a step whose loss or
  gradient is not finite changes nothing but the step's number, and is counted as `skipped`.
  """

  def step(state: TrainState, frozen, batch, key):
    key = jax.random.fold_in(key, state.step)
    owned = {k: state.params[k] for k in player.owns}
    rest = frozen | {k: v for k, v in state.params.items() if k not in owned}

    def loss(owned, memory, batch, key):
      return player.loss(rest | owned, memory, batch, key)

    def mirrored(grads):  # as the parameters lie: never whole where those are split
      if layout is None:
        return grads
      own = {k: layout.params[k] for k in owned}
      return jax.lax.with_sharding_constraint(grads, own)

    def part(carry, x):
      memory, total = carry
      (value, (memory, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(owned, memory, *x)
      total = jax.tree.map(lambda a, b: a + b / accumulate, total, mirrored(grads))
      return (memory, total), metrics | dict(loss=value)

    # Each device's own rows are dealt out among the parts: nothing moves between devices.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, accumulate)
    zeros = mirrored(jax.tree.map(jnp.zeros_like, owned))
    if accumulate == 1:
      carry, metrics = part((state.memory, zeros), (batch, keys[0]))
    else:
      carry, metrics = jax.lax.scan(part, (state.memory, zeros), (parts, keys))
    memory, grads = carry
    metrics = jax.tree.map(jnp.mean, metrics) | dict(grad_norm=optax.tree.norm(grads))

    updates, opt = optimizer.update(grads, state.opt[name], owned)
    params = state.params | optax.apply_updates(owned, updates)
    new = TrainState(state.step + 1, params, state.opt | {name: opt}, memory)
    if skip:
      good = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['grad_norm'])
      new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
      new = new._replace(step=state.step + 1)
      metrics |= dict(skipped=1.0 - good)
    return new, {f'{name}/{k}': v for k, v in metrics.items()}

  same, rows = sharding.replicated(mesh), sharding.rows(mesh)
  inside = layout or same
  return jax.jit(
    sharding.under(mesh, step),
    in_shardings=(inside, frozen_layout or same, rows, same),
    out_shardings=(inside, same),
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
  k_init, k_step = jax.random.split(jax.random.key(c.seed, impl=c.prng))
  known = base.Data(data.index, data.label, c.batch_size, total)
  extra, memory = method.init(k_init, params, known)
  params = params | extra
  owned = {name for player in method.players.values() for name in player.owns}
  turns = collections.Counter(method.turn(step, total) for step in range(total))
  makers = {
    name: optim.make(c, turns[name], total, **player.optimizer)
    for name, player in method.players.items()
  }
  # A copy: the state is donated, and the caller's parameters (another run's start) must survive.
  trained = jax.tree.map(jnp.copy, {k: v for k, v in params.items() if k in owned})
  trained = sharding.place(trained, mesh)  # and the optimizer's zeros lie as they do
  opt = {
    name: makers[name].init({k: trained[k] for k in player.owns})
    for name, player in method.players.items()
  }
  state = TrainState(jnp.zeros((), jnp.int32), trained, opt, memory)
  frozen = {k: v for k, v in params.items() if k not in owned}
  layout = TrainState(
    sharding.replicated(mesh),
    sharding.lay(trained, mesh),
    {name: sharding.lay(own, mesh) for name, own in opt.items()},
    sharding.lay(memory, mesh),
  )
  frozen_layout, skip = sharding.lay(frozen, mesh), c.nonfinite == 'skip'
  steps = {
    name: make_step(name, player, makers[name], mesh, layout, frozen_layout, c.accumulate, skip)
    for name, player in method.players.items()
  }
  return Game(sharding.move(state, layout), sharding.move(frozen, frozen_layout), steps, k_step)


def shapes(method: base.Method, params, data, c, total: int, mesh):
  """(state, frozen, steps) of `start`, where shapes stand for arrays: nothing is computed."""
  made = {}

  def run(params):
    game = start(method, params, data, c, total, mesh)
    made.update(game.steps)
    return game.state, game.frozen

  return *jax.eval_shape(run, params), made


def groups(state: TrainState, frozen: dict[str, Any]) -> dict[str, Any]:
  """What lies on the mesh, by name: each role's parameters, optimizers, memory; for a table."""
  optimizers = {f'optimizer of {name}': opt for name, opt in state.opt.items()}
  found = frozen | state.params | optimizers | dict(memory=state.memory)
  return {name: tree for name, tree in found.items() if jax.tree.leaves(tree)}


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
  log.logger.info(sharding.table(groups(state, game.frozen), mesh))
  last = checkpoint.Store(workdir / 'checkpoints' / 'last', c.keep)
  # Two: a run that is killed between its two saves goes on from the best before the newest.
  best = checkpoint.Store(workdir / 'checkpoints' / 'best', keep=2)
  # scored: the last step that was evaluated. pending: metrics of steps that no log row has yet.
  meta = dict(best=None, metrics={}, best_step=0, scored=0, pending=[])
  if last.step() is not None:
    state, meta = last.restore(state)
    log.logger.info(f'{title}: going on from step {int(state.step)}')
  begin, pending = int(state.step), meta.pop('pending')
  best.drop_after(meta['scored'])
  every = c.eval_every or per_epoch
  own = sharding.own(mesh, c.batch_size)
  stream = batches.train_batches(data, c.batch_size, buckets, c.seed, begin, own)
  watch = guard.Guard(title, workdir, c.nonfinite)
  clock, shown = log.Clock(), {}
  with (
    stop.hold(),
    contextlib.closing(_writer(workdir, begin, meta['scored'], c.tensorboard)) as writer,
    tqdm.tqdm(
      total=total,
      initial=begin,
      desc=title,
      unit='step',
      dynamic_ncols=True,
      disable=not hosts.first(),
    ) as bar,
  ):

    def keep(done: int, state, wait: bool = False) -> None:
      with stop.saving():
        last.save(done, state, meta | dict(pending=pending), wait)

    def rate(done: int, state, wait: bool = False) -> None:
      """Evaluate, and keep what is best; a stop in the middle of it comes back to it."""
      try:
        scores = score(state.params['student'])
      except stop.Stopped:
        keep(done, state, wait=True)
        raise
      name, value = next(iter(scores.items()))
      shown[name] = value
      writer.write(done, {f'validation/{k}': v for k, v in scores.items()})
      meta['scored'] = done
      if meta['best'] is None or value > meta['best']:
        meta.update(best=value, metrics=scores, best_step=done)
        with stop.saving():
          best.save(done, state.params['student'], meta, wait=True)
      keep(done, state, wait)

    if meta['scored'] < begin and (begin % every == 0 or begin == total):
      rate(begin, state)
    for done, batch in enumerate(itertools.islice(stream, total - begin), begin + 1):
      step = game.steps[method.turn(done - 1, total)]
      state, metrics = step(state, game.frozen, sharding.put(batch, mesh), game.key)
      watch.watch(done, batch)
      pending.append(metrics)
      due = done % every == 0 or done == total
      if done % c.log_every == 0 or due:  # a row never spans an evaluation
        pending = watch.fetch(pending, done)
        row = _means(pending)
        row['examples_per_second'] = clock.rate(c.batch_size * len(pending))
        pending = []
        writer.write(done, row)
        shown['loss'] = next((v for k, v in row.items() if k.endswith('/loss')), float('nan'))
        shown['examples/s'] = row['examples_per_second']
      leaving = stop.agreed()
      if due:  # what is saved last is waited for: a save that fails can be tried again
        rate(done, state, wait=leaving or done == total)
        clock = log.Clock()
      if leaving and done < total:
        if not due:
          pending = watch.fetch(pending, done)
          keep(done, state, wait=True)
        with stop.saving():
          last.close()
        log.logger.info(f'{title}: stopped at step {done}, saved in {workdir}')
        raise stop.Stopped
      bar.set_postfix({k: f'{v:.4g}' for k, v in shown.items()}, refresh=False)
      bar.update()
    student, kept = best.restore(state.params['student'])
    with stop.saving():
      last.close()
      best.close()
  stop.point()  # all of it is saved
  return Result(student, kept['metrics'], kept['best_step'], total)


def _writer(*args) -> log.Writer:
  return log.Writer(*args) if hosts.first() else log.Nobody()


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
  """Mean of each metric over the steps that had it; a step that was skipped has none to give."""
  values = collections.defaultdict(list)
  for metrics in rows:
    for name, value in metrics.items():
      if np.isfinite(value):
        values[name].append(value)
  return {name: float(np.mean(v)) for name, v in values.items()}
