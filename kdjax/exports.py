"""--mode=export: a model's folder for transformers, other formats in it, and each one checked."""

import importlib.util
import pathlib
import shutil
from collections.abc import Callable

import jax
import numpy as np

from kdjax import env, evaluate, formats, hosts, inference, net, report, runs, tasks
from kdjax.data import batches, table, tokens
from kdjax.models import hf, vision_files

REPORT = 'export_report.json'
_BATCH = 32  # rows
_TIMED = 20  # calls of one row


def export(c, workdir: pathlib.Path) -> pathlib.Path:
  """The best checkpoint's folder, or of many seeds each one's, copied to config.export.dir.

  Files of a text classifier's tokenizer are written anew: as they are loaded here, with all that
  the model reads and no length of their own.

  config.export.formats are written into it. export_report.json says of each, and of the folder
  itself as transformers on torch reads it where torch is installed, how far it is from kdjax's own
  logits on real rows, its latency and its size.

  Raises:
    ValueError: the folder is not empty; a format is not known, or not for this model; a package is
      missing; or a format is further off than config.export.tolerance, or agreement, allows.
      Nothing is left then.
  """
  models = inference.chosen(c, workdir)
  target = pathlib.Path(c.export.dir) if c.export.dir else workdir / 'export'
  text = not runs.masked(c) and not any(map(vision_files.holds, models.values()))
  wanted = _wanted(c, text)
  if not hosts.first():
    return target
  if target.exists() and any(target.iterdir()):
    raise ValueError(f'{target} is not empty: set config.export.dir, or delete it')
  checked = (c.data.max_length, *_checked(c)) if text else ()
  spare = target.with_name(target.name + '.tmp')
  shutil.rmtree(spare, ignore_errors=True)
  try:
    for seed, where in models.items():
      copy = spare / f'seed{seed}' if len(models) > 1 else spare
      # An earlier export has formats beside the model: they are written anew, or left out.
      shutil.copytree(where, copy, ignore=shutil.ignore_patterns(*formats.ALL, REPORT))
      _equal(where, copy, 'mlm' if runs.masked(c) else 'classify')
      if text:
        # In full: by default GPUs and TPUs multiply float32 with fewer bits.
        with jax.default_matmul_precision('highest'):
          _write(copy, wanted, *checked)
    if target.exists():
      target.rmdir()
    spare.rename(target)
  finally:
    shutil.rmtree(spare, ignore_errors=True)
  print(f'exported {", ".join(map(str, models.values()))} to {target}')
  return target


def _wanted(c, text: bool) -> dict[str, formats.Format]:
  names = [part.strip() for part in c.export.formats.split(',') if part.strip()]
  for name in names:
    if name not in formats.ALL:
      raise ValueError(f'config.export.formats: {name} is none of {", ".join(formats.ALL)}')
  if names and not text:
    raise ValueError('config.export.formats is of classifiers of text: leave it empty')
  found = {name: formats.ALL[name] for name in names}
  for name, form in found.items():
    if missing := [p for p in form.needs if not importlib.util.find_spec(p)]:
      raise ValueError(f'config.export.formats={name} needs {", ".join(missing)}: {formats.REMEDY}')
  return found


def _checked(c) -> tuple:
  """(config, kind of the task, rows of the split that chose the model)."""
  c, spec, text = env.read(c)
  split = text.splits[next(s for s in spec.evaluation if s in text.splits)]
  return c, spec.kind, table.take(split, np.arange(min(c.export.rows, len(split.index))))


def _equal(where: pathlib.Path, copy: pathlib.Path, head: str) -> None:
  """RuntimeError unless the copy holds the same parameters."""

  def leaves(folder):
    module = vision_files.load(folder) if vision_files.holds(folder) else None
    module = (module or hf.load(str(folder), head=head))[0]
    return map(np.asarray, jax.tree.leaves(net.split(module)[1]))

  if not all(map(np.array_equal, leaves(where), leaves(copy))):
    raise RuntimeError(f'{copy} does not read back as {where}')


def _write(
  copy: pathlib.Path, wanted: dict[str, formats.Format], longest: int, c, kind: str, rows
) -> None:
  """The formats of one classifier, and its report.

  longest: config.data.max_length as it was given; 0: as the model was trained.
  """
  module, config, tokenizer = hf.load(str(copy))
  tokenizer.save_pretrained(str(copy))  # which gives all that the model reads, segments too
  longest = min(longest or hf.length_of(config, tokenizer), module.spec.max_length)
  asked = formats.inputs(module, tokenizer, longest)
  # Of all that training reads: a format that lacks one of these is found out.
  whole = asked._replace(names=formats.NAMES)
  own, calls, sizes = formats.plain(module, whole), {}, {}
  if importlib.util.find_spec('torch'):
    calls['transformers'] = formats.read_torch(copy)
  for name, form in wanted.items():
    folder = copy / name
    folder.mkdir()
    form.write(folder, module, asked)
    calls[name] = form.read(folder, asked)
    sizes[name] = sum(file.stat().st_size for file in folder.iterdir())
  ids = tokens.tokenise(rows, tokenizer, longest)
  data = batches.Dataset(ids, rows.label, rows.index, None)
  calls = {name: lambda batch, f=call: f(asked.of(batch)) for name, call in calls.items()}
  calls = {'kdjax': lambda batch: own(whole.of(batch))} | calls
  found = _compared(calls, data, asked.lengths, kind)
  whole_size = sum(file.stat().st_size for file in copy.glob('*.safetensors'))
  for name, row in found.items():
    row['bytes'] = sizes.get(name, whole_size)
  said = dict(rows=len(rows.index), tolerance=c.export.tolerance, **asked._asdict())
  report.write_json(copy / REPORT, said | dict(formats=found, versions=report.versions()))
  print(_table(found))
  exact = [name for name in found if name not in wanted or wanted[name].exact]
  off = [name for name in exact if not found[name]['difference'] <= c.export.tolerance]
  if off:
    raise ValueError(
      f'nothing is exported: logits of {", ".join(off)} differ from those of kdjax by '
      f'{max(found[name]["difference"] for name in off):.2g}, config.export.tolerance is '
      f'{c.export.tolerance}'
    )
  off = [name for name in found if not found[name]['agreement'] >= c.export.agreement]
  if off:
    raise ValueError(
      f'nothing is exported: {", ".join(off)} decides '
      f'{min(found[name]["agreement"] for name in off):.2%} of the rows as kdjax does, '
      f'config.export.agreement is {c.export.agreement}'
    )


def _compared(calls: dict[str, Callable], data, lengths: tuple[int, ...], kind: str) -> dict:
  """By format: largest difference of a logit, share of rows decided alike, ms of a row alone.

  Of scores, their correlation in the place of that share.
  """
  found = {name: [] for name in calls}
  for batch, real in batches.eval_batches(data, _BATCH, lengths):
    for name, call in calls.items():
      found[name].append(call(batch)[:real])
  logits = {name: np.concatenate(pieces) for name, pieces in found.items()}
  own, decide = logits['kdjax'], tasks.KINDS[kind].decide

  def alike(x) -> float:
    if kind == 'regression':
      return float(np.corrcoef(x[:, 0], own[:, 0])[0, 1])
    same = np.asarray(decide(x)) == np.asarray(decide(own))
    return float(same.reshape(len(own), -1).all(1).mean())

  few = batches.part(data, slice(_TIMED))
  ms = evaluate.latency(calls, [batch for batch, _ in batches.eval_batches(few, 1, lengths)])
  return {
    name: dict(difference=float(np.abs(x - own).max()), agreement=alike(x), latency_ms=ms[name])
    for name, x in logits.items()
  }


def _table(found: dict[str, dict]) -> str:
  head = ['', 'largest difference', 'decided alike', 'ms a row', 'MB']
  lines = [
    [
      name,
      f'{row["difference"]:.1e}',
      f'{row["agreement"]:.2%}',
      f'{row["latency_ms"]:.2f}',
      f'{row["bytes"] / 1e6:.1f}',
    ]
    for name, row in found.items()
  ]
  return report.shown(head, lines)
