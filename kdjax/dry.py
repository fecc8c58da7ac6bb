"""--mode=dry_run: what a run would read, train and write, and how long it would take."""

import collections

import numpy as np

from kdjax import env, estimate, hosts, runs, staging
from kdjax.data import batches, sources, table

_MOST = 5000  # texts that are tokenised once more, without being cut
_ASKED = 200  # rows that a teacher answers
_WIDTH = 400  # characters of a row that are shown


def show(plan: env.Plan, rows: int = 3, timed: bool = True) -> None:
  """Rows, lengths, copies, class balance, a teacher's answers, sizes, steps, times; all printed.

  timed: some steps are played, and forgotten. Of several hosts, nothing is computed.
  """
  c, spec = plan.c, plan.spec
  print(f'\ntask {spec.name}: {spec.kind if spec.label else "no labels"}, {plan.text.origin}')
  if spec.labels:
    print('  classes: ' + ', '.join(f'{i} {name}' for i, name in enumerate(spec.labels)))
  reader = 'student' if plan.student else 'generator'
  roles = ('teacher', 'student', 'generator')
  models = {name: getattr(plan, name) for name in roles if getattr(plan, name)}
  for name, data in plan.data.items():
    print(f'  {name}: {len(data.index):,} rows{_balance(data.label, spec)}')
    if spec.images:
      print(f'    {_images(data, spec)}')
    else:
      told = plan.text.splits.get(name) if _whole(plan, name) else None
      print(f'    {_lengths(data, told, models[reader].tokenizer, c.data.max_length)}')
  for line in _copies(plan.text.splits):
    print(f'  {line}')
  print(f'\nrows as the {reader} reads them:')
  data = plan.data['train']
  for i in _places(data.label, rows, spec):
    row = data.tokens.tokens[i, : data.tokens.length[i]]
    shown = _picture(row, spec) if spec.images else _cut(models[reader].tokenizer.decode(row))
    print(f'  {_label(data.label[i], spec)}: {shown}')
  print('\nmodels:')
  for name, model in models.items():
    config = model.config
    print(
      f'  {name}: {_kind(config)}, {config.num_hidden_layers} layers x {config.hidden_size}, '
      f'{model.parameters:,} parameters'
    )
  if plan.env.mismatch:
    print(f'  tokenizers differ: {plan.env.mismatch}')
  if plan.teacher and not runs.masked(c) and not hosts.several():
    for line in _teacher(plan):
      print(f'  {line}')
  print('\nruns:')
  for name in runs.order(c):
    _line(name, *staging.steps_of(plan, name), plan)
  checkpoints = {}
  for name in runs.order(c):
    said, checkpoints[name] = estimate.layout(plan, name)
    print(f'\n{name}, {said}')
  print(f'\n{_written(plan, checkpoints)}', flush=True)
  if timed and _pacing(plan):
    _times(plan)


def _pacing(plan: env.Plan) -> bool:
  """Whether steps may be timed: one host alone does it, and not on devices that are simulated.

  Those share the cores: their times say nothing, and they may wait for one another for ever.
  """
  device = plan.mesh.devices.devices.flat[0]
  return not hosts.several() and (device.platform != 'cpu' or plan.mesh.devices.size == 1)


def _whole(plan: env.Plan, name: str) -> bool:
  """Whether the rows of a split are those of its text: not windows, nor other text beside it."""
  return name in plan.text.splits and len(plan.text.splits[name].first) == len(
    plan.data[name].index
  )


def _lengths(data, told: table.Table | None, tokenizer, max_length: int) -> str:
  if told is None:
    length = data.tokens.length[:: 1 + len(data.index) // 1_000_000]
    said = f'{(length >= max_length).mean():.1%} have {max_length}, and may be cut'
  else:
    few = table.take(told, np.arange(0, len(told.first), 1 + len(told.first) // _MOST))
    found = tokenizer(few.first, few.second, truncation=False, padding=False, verbose=False)
    length = np.array([len(ids) for ids in found['input_ids']])
    said = f'{(length > max_length).mean():.1%} are longer than {max_length}, and cut'
  levels = 50, 90, 99, 100
  quantiles = ', '.join(f'{q:.0f}' for q in np.quantile(length, np.array(levels) / 100))
  return f'tokens ({", ".join(map(str, levels))} %): {quantiles}; {said}'


def _images(data, spec) -> str:
  pixels = data.tokens.tokens
  shape = ' x '.join(map(str, spec.shape))
  return f'{shape}, pixels from {pixels.min()} to {pixels.max()}, mean {pixels.mean():.0f}'


def _copies(splits: dict[str, table.Table]) -> list[str]:
  """Rows that say the same (table.keys), within a split and in train."""
  found = {name: table.keys(split) for name, split in splits.items()}
  train_keys, out = set(found.get('train', ())), []
  for name, keys in found.items():
    said, label = [], splits[name].label
    if again := len(keys) - len(set(keys)):
      said.append(f'{again:,} repeat another')
      given = collections.defaultdict(set)
      for key, value in zip(keys, label.tolist(), strict=True):
        given[key].add(str(value))
      if several := sum(len(values) > 1 for values in given.values()):
        said.append(f'{several:,} texts have several labels')
    if name != 'train' and (both := sum(key in train_keys for key in keys)):
      said.append(f'{both:,} are in train too ({both / len(keys):.1%})')
    if said:
      out.append(f'{name}: of {len(keys):,} rows {"; ".join(said)}')
  return out or ['no row repeats another, in one split or in two']


def _places(label: np.ndarray, rows: int, spec) -> list[int]:
  """Of rows to show: one of each class, then the first ones."""
  first = list(range(min(rows, len(label))))
  if spec.kind != 'classes' or not spec.label:
    return first
  _, each = np.unique(label, return_index=True)
  each = sorted(each.tolist())[: rows if spec.images else 8]
  return list(dict.fromkeys([*each, *first]))[: max(rows, len(each))]


def _cut(text: str) -> str:
  text = ' '.join(text.split())
  return text if len(text) <= _WIDTH else f'{text[:_WIDTH]}...'


def _teacher(plan: env.Plan) -> list[str]:
  """How a teacher that is taken as it is does on some rows, and what speaks against it."""
  own = 'teacher' in runs.order(plan.c)
  if own and (not runs.done(plan.c, plan.workdir / 'teacher') or _other(plan, 'teacher')):
    return []
  split = plan.spec.evaluation[0]
  data = plan.data[split]
  rows = np.flatnonzero(sources.labelled(data.label))
  few = batches.part(data, rows[:: 1 + len(rows) // _ASKED])
  scores, against = staging.judged(plan, 'teacher', plan.teacher, few)
  said = ', '.join(f'{name} {value:.3f}' for name, value in scores.items())
  lines = [f'teacher on {len(few.index)} rows of {split}: {said}']
  return lines + [f'WARNING: the teacher is {text}' for text in against]


def _picture(pixels_PC: np.ndarray, spec) -> str:
  """An image in characters, two a pixel; of a large one, not all pixels."""
  step = -(-spec.shape[1] // 32)
  grey_HW = pixels_PC.reshape(spec.shape).mean(-1)[::step, ::step]
  lines = (''.join(2 * ' .:-=+*#%@'[int(v * 9.99 / 255)] for v in row) for row in grey_HW)
  return ''.join(f'\n    |{line}|' for line in lines)


def _kind(config) -> str:
  return getattr(config, 'architecture', config.model_type)


def _line(name: str, steps: int, per_epoch: int, plan: env.Plan) -> None:
  where = plan.workdir / name
  seeds = len(runs.folders(plan.c, where))
  many = f' of {seeds} seeds' * (seeds > 1)
  state = 'finished, would be reused' if runs.done(plan.c, where) else f'{steps} steps{many}'
  if said := _other(plan, name):  # or it would have been refused
    state = f'{steps} steps{many}, and the run there ({said}) would be set aside'
  print(f'  {name}: {state}, {steps / per_epoch:.2f} epochs of {per_epoch} -> {where}')
  if not plan.spec.images:
    lengths = staging.said(plan, name, staging.lengths_of(plan, name))
    print(f'    {lengths}{staging.mixed(plan, name)}')


def _other(plan: env.Plan, name: str) -> str:
  """What a run there was asked instead, or found in the same files; '': it is this one."""
  where = plan.workdir / name
  return runs.differ(where, runs.asked(plan.c, name)) or staging.moved(plan, name)


def _written(plan: env.Plan, checkpoints: dict[str, int]) -> str:
  """What would be where, and about how large; checkpoints: bytes of one, by run."""
  c, lines = plan.c, []
  for name in runs.order(c):
    own = getattr(plan, name if name in ('teacher', 'generator') else 'student')
    size = 4 * own.parameters * len(runs.folders(c, plan.workdir / name))
    # Those that go on, and the best parameters; one more of each while it is replaced.
    kept = checkpoints[name] * (c.train.keep + 1) + 2 * size
    lines.append(
      f'  {name}/: model ({_bytes(size)}), checkpoints (up to {_bytes(kept)}), log.jsonl, '
      'result.json, run.json' + ', TensorBoard events' * c.train.tensorboard
    )
  lines.append('  config.json, versions.json, labels.json, results.json, results.md')
  lines.append('  cache/ (or config.data.cache): token ids, answers of the teacher')
  return '\n'.join([f'written to {plan.workdir}:', *lines])


def _times(plan: env.Plan) -> None:
  """Estimates, a line as each is found."""
  print('\ntime, by a few steps of each run (compiled programs are kept for the run):', flush=True)
  total = 0.0
  for name in runs.order(plan.c):
    if runs.done(plan.c, plan.workdir / name) and not _other(plan, name):
      continue
    own = estimate.of(plan, name)
    total += own.seconds
    size = runs.fields(plan.c, name).batch_size
    paces = ', '.join(
      f'{"" if len(own.paces) == 1 else f"{player} "}{pace.seconds:.3g} s a step of {size} x '
      f'{pace.length}'
      for player, pace in own.paces.items()
    )
    several = 's' * (own.programs > 1)
    told = f', {_span(own.telling)} for the answers of the teacher' * (own.telling > 0)
    print(
      f'  {name}: about {_span(own.seconds)}: {paces}; {_span(own.compiling)} to compile '
      f'{own.programs} program{several}, {_span(own.scoring)} of evaluation{told}; '
      f'{_bytes(own.bytes)} a device',
      flush=True,
    )
  print(f'  all: about {_span(total)} on this machine')


def _span(seconds: float) -> str:
  if seconds < 100:
    return f'{seconds:.0f} s'
  return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def _bytes(n: float) -> str:
  unit, name = next(u for u in ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB')) if n >= u[0] or u[0] == 1e3)
  return f'{n / unit:.1f} {name}'


def _balance(label: np.ndarray, spec) -> str:
  there = sources.labelled(label)
  few = f', {there.sum():,} with a label' * bool(spec.label and not there.all())
  if not there.any() or label.size == 0:
    return ', no labels' * bool(spec.label)
  label = label[there]
  if spec.kind == 'regression':
    low, middle, high = np.quantile(label, (0, 0.5, 1))
    return f'{few}; scores from {low:.3g} to {high:.3g}, median {middle:.3g}'
  if spec.kind == 'multilabel':
    shares = label.mean(0)
  else:
    shares = np.bincount(label, minlength=spec.num_labels) / len(label)
  pairs = zip(spec.labels, shares, strict=True)
  return f'{few}; ' + ', '.join(f'{name} {share:.0%}' for name, share in pairs)


def _label(value, spec) -> str:
  if not sources.labelled(np.asarray(value)[None])[0]:
    return '(none)'
  if spec.kind == 'regression':
    return f'{value:.3f}'
  if spec.kind == 'multilabel':
    return '|'.join(n for n, v in zip(spec.labels, value, strict=True) if v) or '(no class)'
  return spec.labels[value]
