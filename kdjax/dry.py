"""--mode=dry_run: what a run would read, train and write, without doing it."""

import numpy as np

from kdjax import env, jobs, runs, train


def show(plan: env.Plan, rows: int = 3) -> None:
  """Decoded rows, lengths, class balance, sizes, steps; nothing is trained."""
  c, spec = plan.c, plan.spec
  print(f'\ntask {spec.name}: {spec.kind if spec.label else "no labels"}, {plan.text.origin}')
  for name, data in plan.data.items():
    sizes = _images(data, spec) if spec.images else _lengths(data, c.data.max_length)
    print(f'  {name}: {len(data.index)} rows, {sizes}{_balance(data.label, spec)}')
  roles = ('teacher', 'student', 'generator')
  models = {name: getattr(plan, name) for name in roles if getattr(plan, name)}
  reader = 'student' if plan.student else 'generator'
  print(f'\nrows as the {reader} reads them:')
  data = plan.data['train']
  for i in range(min(rows, len(data.index))):
    row = data.tokens.tokens[i, : data.tokens.length[i]]
    shown = _picture(row, spec) if spec.images else models[reader].tokenizer.decode(row)
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
  print('\nruns:')
  for name in runs.order(c):
    _line(name, *train.total_steps(runs.fields(c, name), len(data.index)), plan)
  for name in runs.order(c):
    print(f'\n{name}, {jobs.layout(plan, name)}')


def _lengths(data, max_length: int) -> str:
  length = data.tokens.length[:: 1 + len(data.index) // 1_000_000]
  quantiles = ', '.join(f'{q:.0f}' for q in np.quantile(length, (0.5, 0.9, 1.0)))
  full = (length >= max_length).mean()
  return f'tokens (50, 90, 100 %): {quantiles}; {full:.1%} at max_length'


def _images(data, spec) -> str:
  pixels = data.tokens.tokens
  shape = ' x '.join(map(str, spec.shape))
  return f'{shape}, pixels from {pixels.min()} to {pixels.max()}, mean {pixels.mean():.0f}'


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
  said = runs.differ(where, runs.asked(plan.c, name))
  if said:  # or it would have been refused
    state = f'{steps} steps{many}, and the run there ({said}) would be set aside'
  print(f'  {name}: {state}, {steps / per_epoch:.2f} epochs of {per_epoch} -> {where}')
  if not plan.spec.images:
    print(f'    {jobs.said(plan, name, jobs.lengths_of(plan, name))}')


def _balance(label: np.ndarray, spec) -> str:
  if spec.kind == 'regression' or label.size == 0:
    return ''
  if spec.kind == 'multilabel':
    shares = label.mean(0)
  else:
    shares = np.bincount(label[label >= 0], minlength=spec.num_labels) / max((label >= 0).sum(), 1)
  if not shares.any():
    return '; no labels'
  pairs = zip(spec.labels, shares, strict=True)
  return '; ' + ', '.join(f'{name} {share:.0%}' for name, share in pairs)


def _label(value, spec) -> str:
  if spec.kind == 'regression':
    return f'{value:.3f}'
  if spec.kind == 'multilabel':
    return '|'.join(n for n, v in zip(spec.labels, value, strict=True) if v) or '(none)'
  return spec.labels[value] if value >= 0 else '(none)'
