"""What a run leaves for people: the resolved config, versions, the table, the model card."""

import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

_PACKAGES = ('kdjax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'numpy')


def writable(workdir: pathlib.Path, flag: str = '--workdir') -> None:
  """ValueError, naming the folder, where nothing can be written."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as e:
    raise ValueError(f'cannot write to {flag}={workdir}: {e.strerror or e}') from None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Whole or not at all."""
  spare = path.with_name(path.name + '.tmp')
  spare.write_text(json.dumps(value, indent=2) + '\n', encoding='utf8')
  os.replace(spare, path)


def read_json(path: pathlib.Path) -> Any:
  """ValueError, naming the file, where it is damaged."""
  try:
    return json.loads(path.read_text(encoding='utf8'))
  except ValueError as e:
    raise ValueError(f'{path} is damaged ({e}): delete it') from None


def record(c, workdir: pathlib.Path) -> None:
  """config.json: all fields as resolved; versions.json: packages, Python, devices."""
  write_json(workdir / 'config.json', c.to_dict())
  devices = jax.devices()
  here = dict(devices=f'{len(devices)} x {devices[0].device_kind}')
  write_json(workdir / 'versions.json', versions() | here)


def versions() -> dict[str, str]:
  """Of the packages that decide what a run computes, and of Python."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return found | dict(python=platform.python_version())


def table(rows: dict[str, dict], spec, workdir: pathlib.Path) -> str:
  """Print the results, a model a line, and keep them in results.json and results.md."""
  splits = [k for k in next(iter(rows.values())) if k not in ('parameters', 'examples_per_second')]
  head = ['', 'parameters']
  head += [f'{split} {metric}' for split in splits for metric in spec.metrics]
  head += ['examples/s', 'x teacher']
  lines = []
  for name, row in rows.items():
    faster = row['examples_per_second'] / rows['teacher']['examples_per_second']
    each = row['seeds'].values() if 'seeds' in row else [row]
    values = [spread([own[s][m] for own in each]) for s in splits for m in spec.metrics]
    speeds = [f'{row["examples_per_second"]:.0f}', f'{faster:.1f}']
    lines.append([name, count(row['parameters']), *values, *speeds])
  return _written(head, lines, rows, [*rows, 'generator'], workdir)


def _written(head, lines, rows: dict[str, dict], names, workdir: pathlib.Path) -> str:
  """A table in results.md, results.json beside it; and printed, with where the models are."""
  text = markdown(head, lines) + _seeds(rows)
  write_json(workdir / 'results.json', rows)
  (workdir / 'results.md').write_text(text + '\n', encoding='utf8')
  print(f'\n{shown(head, lines)}{_seeds(rows)}\n')
  _where(names, workdir)
  return text


def _seeds(rows: dict[str, dict]) -> str:
  n = max(len(row.get('seeds', ())) for row in rows.values())
  return f'\n\n±: standard deviation over {n} seeds of one teacher' if n else ''


def spread(values: list[float], sign: str = '', digits: int = 4) -> str:
  """'0.9012 ± 0.0034': mean, and sample standard deviation where there are two or more."""
  mean = f'{np.mean(values):{sign}.{digits}f}'
  return mean if len(values) < 2 else f'{mean} ± {np.std(values, ddof=1):.{digits}f}'


def guesses(results: dict[str, dict], workdir: pathlib.Path) -> dict[str, dict]:
  """Print what masked language models learned, before and after; keep it as `table` does."""
  rows, lines, head = {}, [], []
  for name, result in results.items():
    split, after, size = (result[k] for k in ('split', 'metrics', 'parameters'))
    rows[name] = {'parameters': size, split: after}
    rows[name] |= {k: result[k] for k in ('before', 'std', 'seeds') if k in result}
    head = ['', 'parameters', *(f'{split} {k}' for k in after)]
    each = list(result['seeds'].values()) if 'seeds' in result else [result]
    for title, moment in ((f'{name}, untrained', 'before'), (name, 'metrics')):
      if moment in result:
        columns = [[own[moment][k] for own in each] for k in after]
        values = [spread(column, digits=4 if max(column) < 1 else 1) for column in columns]
        lines.append([title, count(size), *values])
  _written(head, lines, rows, rows, workdir)
  return rows


def count(parameters: int) -> str:
  """'22.7 M', or '0.5 k' of a small model."""
  return f'{parameters / 1e6:.1f} M' if parameters >= 5e5 else f'{parameters / 1e3:.1f} k'


def _where(names, workdir: pathlib.Path) -> None:
  for name in names:
    many = sorted((workdir / name).glob('seed*/model'))
    for where in (workdir / name / 'model', *many):
      if where.is_dir():
        print(f'{name:>12}: {where}')
  print(f'{"also":>12}: {workdir}/results.json, config.json, versions.json, */log.jsonl')


def markdown(head: list[str], lines: list[list[str]]) -> str:
  """A table with aligned columns."""
  widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
  rule = ['-' * w if i == 0 else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
  rows = [head, rule, *lines]
  return '\n'.join(
    '| ' + ' | '.join(v.ljust(w) if i == 0 else v.rjust(w)
                      for i, (v, w) in enumerate(zip(row, widths, strict=True))) + ' |'
    for row in rows
  )  # fmt: skip


def shown(head: list[str], lines: list[list[str]]) -> str:
  """As `markdown` where it is piped or kept; on a terminal, a table of its width."""
  if not sys.stdout.isatty():
    return markdown(head, lines)
  return '\n\n'.join(_blocks(head, lines, shutil.get_terminal_size().columns))


def _blocks(head: list[str], lines: list[list[str]], columns: int) -> list[str]:
  """A word of a column's name a line; as many tables as it takes, each with the first column."""
  each = [(name.split(' ') or [''], values) for name, *values in zip(head, *lines, strict=True)]
  widths = [max(map(len, words + values)) for words, values in each]
  out, taken, size = [], [0], widths[0]
  for i, width in enumerate(widths[1:], 1):
    if size + 2 + width > columns and len(taken) > 1:
      out.append(taken)
      taken, size = [0], widths[0]
    taken.append(i)
    size += 2 + width
  return [_block([each[i] for i in own], [widths[i] for i in own]) for own in (*out, taken)]


def _block(each: list[tuple[list[str], list[str]]], widths: list[int]) -> str:
  high = max(len(words) for words, _ in each)
  cells = [[''] * (high - len(words)) + words + ['-' * w] + values
           for (words, values), w in zip(each, widths, strict=True)]  # fmt: skip
  return '\n'.join(
    '  '.join(v.ljust(w) if i == 0 else v.rjust(w)
              for i, (v, w) in enumerate(zip(row, widths, strict=True))).rstrip()
    for row in zip(*cells, strict=True)
  )  # fmt: skip


class Told(NamedTuple):
  """What a card says beyond the plan and the result.

  method: a line of what it does. changed: the fields that are not a config's defaults. seeds: each
  one's metrics. teacher: the metrics of the teacher that it learned from, where they are known.
  """

  method: str
  changed: dict[str, Any]
  seeds: list[dict[str, float]]
  teacher: dict[str, float]


def card(plan, name: str, result: dict, seed: int, told: Told) -> str:
  """A model card: data, teacher, method, config, numbers with their seed, how to load it."""
  import huggingface_hub

  c, spec = plan.c, plan.spec
  guesses = 'before' in result  # as those of masked language models are
  kind = 'fill-mask' if guesses else 'image' * spec.images + 'text' * (not spec.images)
  kind += '' if guesses else '-classification'
  alone, start = name in ('teacher', 'generator'), c.generator.init
  if start in ('teacher', 'random'):
    start += f' ({c.teacher.init})'
  how = 'trained as a masked language model' if guesses else 'fine-tuned'
  how = how if alone else f'distilled by {name}'
  title = f'{plan.workdir.name}: {spec.name}, {how}'
  front = huggingface_hub.ModelCardData(
    library_name='kdjax' if spec.images else 'transformers',
    pipeline_tag=kind,
    tags=['kdjax', *['knowledge-distillation'] * (not alone)],
    base_model=c.teacher.init if _published(c.teacher.init) else None,
    model_name=title,
    eval_results=[
      huggingface_hub.EvalResult(
        task_type=kind, dataset_type=spec.name, dataset_name=spec.name,
        dataset_split=result['split'], metric_type=metric, metric_value=value,
      )
      for metric, value in result['metrics'].items()
    ],
  )  # fmt: skip
  lines = [
    '---',
    front.to_yaml(),
    '---',
    f'# {title}',
    '',
    f'- data: {result["rows"]} training rows. {plan.text.origin}',
    f'- start: {start if name == "generator" else c.teacher.init}' if alone
    else f'- teacher: {c.teacher.init}' + f', {_scores(told.teacher)}' * bool(told.teacher),
    f'- method: {told.method}',
    f'- parameters: {result["parameters"]:,}',
    f'- {result["split"]}: {_scores(result["metrics"])} (seed {seed}, step {result["best_step"]} '
    f'of {result["steps"]}, chosen on this split)',
  ]  # fmt: skip
  if len(told.seeds) > 1:
    spreads = {k: spread([own[k] for own in told.seeds]) for k in told.seeds[0]}
    said = ', '.join(f'{k} {v}' for k, v in spreads.items())
    lines.append(f'- {result["split"]} of {len(told.seeds)} seeds of one teacher: {said}')
  if not guesses:
    lines.append(f'- classes: {", ".join(spec.labels) or "one score"}')
  lines += ['', '## How to load it', '', '```python', *_loading(kind), '```', '', '## Config', '']
  lines += [f'- `{k}`: `{v!r}`' for k, v in told.changed.items()]
  lines += ['', 'Those are the fields that differ from the defaults.'] if told.changed else [
    'All fields have their defaults.'
  ]  # fmt: skip
  packages = ', '.join(f'{k} {v}' for k, v in versions().items())
  return '\n'.join([*lines, '', f'Made with {packages}.']) + '\n'


def _scores(metrics: dict[str, float]) -> str:
  return ', '.join(f'{k} {v:.4f}' for k, v in metrics.items())


def _published(init: str) -> bool:
  """Whether it is an id of the hub, which a card may link to."""
  return re.fullmatch(r'[\w.-]+/[\w.-]+', init) is not None and not pathlib.Path(init).exists()


def _loading(kind: str) -> list[str]:
  """Lines of Python; FOLDER is where the card is."""
  ours = ['import kdjax', '', "clf = kdjax.load('FOLDER')"]
  if kind == 'image-classification':
    return [
      *ours,
      'clf(pixels)  # uint8 [n, height, width, channels] -> probabilities [n, classes]',
    ]
  theirs = 'AutoModelForMaskedLM' if kind == 'fill-mask' else 'AutoModelForSequenceClassification'
  lines = [
    'import transformers', '', f"model = transformers.{theirs}.from_pretrained('FOLDER')",
    "tokenizer = transformers.AutoTokenizer.from_pretrained('FOLDER')",
  ]  # fmt: skip
  if kind == 'fill-mask':
    return lines
  return [*ours, "clf(['a text'])  # probabilities, in the order of clf.labels", '', *lines]
