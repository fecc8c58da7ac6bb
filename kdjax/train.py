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

from kdjax import checkpoint, feed, guard, hosts, log, optim, progress, seeds, sharding, stop
from kdjax.data import batches
from kdjax.methods import base


class TrainState(NamedTuple):
  """All that changes: what players own, their optimizers, the method's memory.

  Of several seeds, every leaf has a first axis of them.
  """

  step: jax.Array  # i32[], or i32[S]
  params: dict[str, Any]
  opt: dict[str, Any]
  memory: Any


class Result(NamedTuple):
  """What a run leaves: the best parameters by the first metric, and how they scored."""

  params: dict[str, Any]
  metrics: dict[str, float]
  step: int
  steps: int
  last: dict[str, float]  # of the parameters at the end


def make_step(
  name: str,
  player: base.Player,
  optimizer,
  mesh,
  layout=None,
  frozen_layout=None,
  accumulate: int = 1,
  skip: bool = False,
  many: bool = False,
) -> Callable:
  """Jitted (state, frozen, batch, key) -> (state, metrics) of one player's turn.

  frozen: parameters that nobody owns; they get no gradient. layout, frozen_layout: shardings of the
  state and of those, None where they are whole on every device. The state is donated. With
  accumulate = A, the batch goes through the loss in A parts, and one update follows the mean
  gradient; a method's in-batch partners are then those of the part. skip: a step whose loss or
  gradient is not finite changes nothing but the step's number, and is counted as `skipped`. many:
  state, batch and key are of several seeds, and what is frozen beside the models is too.
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
      return jax.lax.with_sharding_constraint(grads, sharding.lay(grads, mesh))

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

  def steps(state: TrainState, frozen, batch, key):
    axes = {name: None if name in sharding.ROLES else 0 for name in frozen}
    return seeds.each(step, (0, axes, 0, 0))(state, frozen, batch, key)

  same, rows = sharding.replicated(mesh), sharding.rows(mesh, many)
  inside = layout or same
  return jax.jit(
    sharding.under(mesh, steps if many else step),
    in_shardings=(inside, frozen_layout or same, rows, same),
    out_shardings=(inside, same),
    donate_argnums=0,
  )


class Game(NamedTuple):
  """A method ready to be stepped: a turn of each player, and calls of many turns."""

  state: TrainState
  frozen: dict[str, Any]
  steps: dict[str, Callable]
  key: jax.Array
  calls: dict[str, Callable]


def start(method: base.Method, params, data, c, total: int, mesh) -> Game:
  """Initial state on the mesh, and a jitted step per player.

  params: by name; or a list of such, of the seeds c.seed, c.seed + 1 and so on, that share all
    models but those that are trained. c: the optimizer's fields, batch_size, accumulate, seed.
    total: steps of all players together.
  """
  each, extras, memories, keys = _each(params), [], [], []
  known, many = base.Data(data.index, data.label, c.batch_size, total), len(each) > 1
  for seed, own in enumerate(each, c.seed):
    k_init, k_step = jax.random.split(jax.random.key(seed, impl=c.prng))
    extra, memory = method.init(k_init, own, known)
    extras.append(extra)
    memories.append(memory)
    keys.append(k_step)
  owned = {name for player in method.players.values() for name in player.owns}
  turns = collections.Counter(method.turn(step, total) for step in range(total))
  makers = {
    name: optim.make(c, turns[name], total, **player.optimizer)
    for name, player in method.players.items()
  }

  def lay(tree):
    return sharding.lay(dict(seeds=tree), mesh)['seeds'] if many else sharding.lay(tree, mesh)

  def started(optimizer, own):  # its zeros lie as the parameters do
    if not many:
      return optimizer.init(own)
    init = jax.vmap(optimizer.init)
    return jax.jit(init, out_shardings=lay(jax.eval_shape(init, own)))(own)

  # A copy: the state is donated, and the caller's parameters (another run's start) must survive.
  both = [own | extra for own, extra in zip(each, extras, strict=True)]
  trained = seeds.join([{k: v for k, v in own.items() if k in owned} for own in both])
  trained = jax.tree.map(jnp.copy, trained)
  trained = sharding.move(trained, lay(trained))
  opt = {
    name: started(makers[name], {k: trained[k] for k in player.owns})
    for name, player in method.players.items()
  }
  step, memory = jnp.zeros((len(each),) * many, jnp.int32), seeds.join(memories)
  state = TrainState(step, trained, opt, memory)
  frozen = {k: v for k, v in each[0].items() if k not in owned}
  beside = seeds.join([{k: v for k, v in own.items() if k not in owned} for own in extras])
  layout = TrainState(
    sharding.replicated(mesh),
    lay(trained),
    {name: lay(own) for name, own in opt.items()},
    lay(memory),
  )
  frozen, frozen_layout = frozen | beside, sharding.lay(frozen, mesh) | lay(beside)
  skip = c.nonfinite == 'skip'
  steps = {
    name: make_step(
      name, player, makers[name], mesh, layout, frozen_layout, c.accumulate, skip, many
    )
    for name, player in method.players.items()
  }
  calls = {
    name: feed.program(step, c.steps_per_call, mesh, layout, frozen_layout, many)
    for name, step in steps.items()
  }
  state, frozen = sharding.move(state, layout), sharding.move(frozen, frozen_layout)
  return Game(state, frozen, steps, seeds.join(keys), calls)


def _each(params) -> list[dict[str, Any]]:
  return [params] if isinstance(params, dict) else list(params)


def shapes(method: base.Method, params, data, c, total: int, mesh):
  """(state, frozen, steps) of `start`, where shapes stand for arrays: nothing is computed."""
  made = {}

  def run(params):
    game = start(method, params, data, c, total, mesh)
    made.update(game.steps)
    return game.state, game.frozen

  return *jax.eval_shape(run, params), made


def groups(state: TrainState, frozen: dict[str, Any], data=None) -> dict[str, Any]:
  """What lies on the mesh, by name, for a table: parameters of each role, optimizers, memory, data.

  data: None where they do not lie there.
  """
  optimizers = {f'optimizer of {name}': opt for name, opt in state.opt.items()}
  found = state.params | optimizers | dict(memory=state.memory)
  if state.step.ndim:
    own = {name: tree for name, tree in frozen.items() if name not in sharding.ROLES}
    found = {f'seeds/{name}': tree for name, tree in (found | own).items()}
    frozen = {name: tree for name, tree in frozen.items() if name in sharding.ROLES}
  found = frozen | found | dict(data=data)
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
  params: dict[str, Any] | list[dict[str, Any]],
  data: batches.Dataset,
  score: Callable[[Any], Any],
  c,
  buckets: tuple[int, ...],
  workdir: pathlib.Path,
  mesh,
  title: str,
) -> list[Result]:
  """Train to the end, from the last checkpoint in the workdir where there is one.

  Args:
    params: initial parameters by name, the frozen ones too; or a list of them, one per seed.
    score: student parameters -> metrics, of several seeds a list; the first selects the best
      checkpoint, each seed's for itself.
    c: config.train: batch_size, epochs or steps, optimizer, eval_every, log_every, seed.

  Returns:
    Each seed's result.
  """
  numbers = range(c.seed, c.seed + len(_each(params)))
  n, many = len(numbers), len(numbers) > 1
  total, per_epoch = total_steps(c, len(data.index))
  sharding.check_batch(mesh, c.batch_size, c.accumulate, 'train.batch_size')
  log.logger.info(
    f'{title}: {total} steps of {c.batch_size} = {total / per_epoch:.2f} epochs of '
    f'{len(data.index)} examples' + f', {n} seeds' * many
  )
  game = start(method, params, data, c, total, mesh)
  state, fits = game.state, feed.fitting(data, c.resident)
  log.logger.info(sharding.table(groups(state, game.frozen, fits), mesh, title))
  here = feed.place(data, mesh) if fits else None
  last = checkpoint.Store(workdir / 'checkpoints' / 'last', c.keep)
  # Two: a run that is killed between its two saves goes on from the best before the newest.
  best = checkpoint.Store(workdir / 'checkpoints' / 'best', keep=2)
  kept = [dict(best=None, metrics={}, best_step=0) for _ in numbers]
  # scored: the last step that was evaluated. pending: metrics of steps that no log row has yet;
  # played: of these, the last calls', which are still on the devices.
  begin, scored, pending, played = 0, 0, [], []
  if (saved := last.step()) is not None:
    begin = saved
    state, told = last.restore(state)
    scored, pending = told.pop('scored'), told.pop('pending')
    kept = told['seeds'] if many else [told]
    log.logger.info(f'{title}: going on from step {begin}')
  best.drop_after(scored)
  every = c.eval_every or per_epoch
  own = batches.ALL if many else sharding.own(mesh, c.batch_size)
  plans = [
    batches.train_plan(data, c.batch_size, buckets, k, begin, c.steps_per_call) for k in numbers
  ]
  plan = itertools.islice(seeds.batches(plans), total - begin)
  # No call goes across an evaluation, nor a row of the log.
  key = lambda step: (method.turn(step, total), step // every, step // c.log_every)  # noqa: E731
  calls = feed.calls(plan, begin, c.steps_per_call, key, data, fits is not None, own, mesh)
  watch = guard.Guard(title, workdir, c.nonfinite, numbers)
  clock, shown = log.Clock(), {}
  with (
    stop.hold(),
    contextlib.closing(_writer(workdir, numbers, begin, scored, c.tensorboard, c.wandb)) as writer,
    progress.Line(title, total, begin, shown=hosts.first()) as line,
  ):

    def meta() -> dict[str, Any]:
      return (dict(seeds=kept) if many else kept[0]) | dict(scored=scored)

    def keep(done: int, state, wait: bool = False) -> None:
      with stop.saving():
        last.save(done, state, meta() | dict(pending=pending), wait)

    def rate(done: int, state, wait: bool = False) -> None:
      """Evaluate, and keep what is best; a stop in the middle of it comes back to it."""
      nonlocal scored
      student = state.params['student']
      try:
        scores = score(student) if many else [score(student)]
      except stop.Stopped:
        keep(done, state, wait=True)
        raise
      name = next(iter(scores[0]))
      shown[name] = seeds.mean(scores)[name]
      writer.write(done, [{f'validation/{k}': v for k, v in own.items()} for own in scores])
      scored = done
      better = [
        old['best'] is None or own[name] > old['best']
        for own, old in zip(scores, kept, strict=True)
      ]
      if any(better) and not all(better):  # the others' best, with what is told of it
        old, told = best.restore(student)
        kept[:], student = told['seeds'], seeds.choose(better, student, old)
      for i in np.flatnonzero(better):
        kept[i] = dict(best=scores[i][name], metrics=scores[i], best_step=done)
      for own, found in zip(kept, scores, strict=True):
        own['last'] = found
      if any(better):
        with stop.saving():
          best.save(done, student, meta(), wait=True)
      keep(done, state, wait)

    if scored < begin and (begin % every == 0 or begin == total):
      rate(begin, state)
    done, call = begin, next(calls, None)
    while call:
      steps, first = len(call.index), done + 1
      done += steps
      play = game.calls[call.player]
      state, metrics = play(call.length, state, game.frozen, here, call.rows, steps, game.key)
      played.append((metrics, steps))
      for step, index in enumerate(call.index, first):
        watch.watch(step, dict(index=index))
      call = next(calls, None)  # its rows are on their way before anything waits for this one
      due = done % every == 0 or done == total
      if done % c.log_every == 0 or due:  # a row never spans an evaluation
        pending, played = watch.fetch(pending + feed.rows(played), done), []
        speed = clock.rate(c.batch_size * len(pending))
        row = [_means(own) | dict(examples_per_second=speed) for own in seeds.rows(pending, n)]
        pending = []
        writer.write(done, row)
        means = seeds.mean(row)
        shown['loss'] = next((v for k, v in means.items() if k.endswith('/loss')), float('nan'))
        shown['examples/s'] = n * speed
      leaving = stop.agreed()
      if due:  # what is saved last is waited for: a save that fails can be tried again
        rate(done, state, wait=leaving or done == total)
        clock = log.Clock()
      if leaving and done < total:
        if not due:
          pending = watch.fetch(pending + feed.rows(played), done)
          keep(done, state, wait=True)
        with stop.saving():
          last.close()
        line.update(steps, **shown)
        log.logger.info(f'{title}: stopped at step {done}, saved in {workdir}')
        raise stop.Stopped
      line.update(steps, **shown)
    student, told = best.restore(state.params['student'])
    with stop.saving():
      last.close()
      best.close()
  stop.point()  # all of it is saved
  each = zip(seeds.part(student, n), told['seeds'] if many else [told], kept, strict=True)
  return [
    Result(own, found['metrics'], found['best_step'], total, end.get('last', {}))
    for own, found, end in each
  ]


def _writer(*args) -> seeds.Writer:
  return seeds.Writer(*args) if hosts.first() else log.Nobody()


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
  """Mean of each metric over the steps that had it; a step that was skipped has none to give."""
  values = collections.defaultdict(list)
  for metrics in rows:
    for name, value in metrics.items():
      if np.isfinite(value):
        values[name].append(value)
  return {name: float(np.mean(v)) for name, v in values.items()}
