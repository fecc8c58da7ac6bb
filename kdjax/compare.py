"""Two classifiers on the same rows: where they differ, how far to trust each, what each costs.

python -m kdjax.compare DIR_A DIR_B --data=rows.csv --text=review --label=stars --out=compared
"""

import argparse
import csv
import pathlib
import sys

import numpy as np

from kdjax import evaluate, predict, quote, report
from kdjax.data import files, labels, sources
from kdjax.grid import stats

_EPILOG = """written to --out
  compare.md    agreement, and of each model size, speed and, with --label,
                accuracy, F1 by class, calibration
  compare.json  all numbers; differ.csv: the rows that are decided otherwise
  reliability.png, .svg  accuracy by confidence (with matplotlib)

example
  python -m kdjax.compare runs/reviews/teacher/model runs/reviews/augpro/model \\
    --data=reviews.csv --text=review --label=stars
"""
_BINS = 15  # of confidence, equally wide
_ALONE = 20  # rows of which the latency is
_RESAMPLES = 2000


def calibration(p_NC: np.ndarray, label_N: np.ndarray) -> tuple[float, list[dict]]:
  """(expected calibration error, bins) of the class with the highest probability.

  The mean over bins, weighted by their rows, of |accuracy - mean confidence| (Guo et al., 2017,
  equation 3). A bin: from, to, rows, confidence, accuracy; those without rows are left out.

  Args:
    p_NC: probabilities. label_N: classes.
  """
  confidence, right = p_NC.max(1), p_NC.argmax(1) == label_N
  place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
  bins = []
  for k in np.unique(place):
    own = place == k
    bins.append(
      {
        'from': float(k / _BINS),
        'to': float((k + 1) / _BINS),
        'rows': int(own.sum()),
        'confidence': float(confidence[own].mean()),
        'accuracy': float(right[own].mean()),
      }
    )
  off = sum(b['rows'] * abs(b['accuracy'] - b['confidence']) for b in bins)
  return float(off / len(label_N)), bins


def classes(decision_N: np.ndarray, label_N: np.ndarray, names: tuple[str, ...]) -> dict:
  """By class: precision, recall, f1, rows."""
  from sklearn import metrics

  found = metrics.precision_recall_fscore_support(
    label_N, decision_N, labels=range(len(names)), zero_division=0
  )
  keys = ('precision', 'recall', 'f1', 'rows')
  return {
    name: {key: float(part[i]) for key, part in zip(keys, found, strict=True)}
    for i, name in enumerate(names)
  }


def compare(
  models: dict[str, predict.Classifier], inputs: list, label: np.ndarray | None
) -> tuple[dict, dict[str, np.ndarray]]:
  """(what is written to compare.json, probabilities f32[N, C] of each model) of two classifiers.

  Args:
    models: by name, in order: the first one's classes are those of the columns.
    inputs: N texts, or pairs of them.
    label: i32[N], -1 where a row has none, or None.
  """
  names = next(iter(models.values())).labels
  p = {}
  for name, model in models.items():
    p[name] = model(inputs)[:, [model.labels.index(own) for own in names]]
  decided = {name: own.argmax(1) for name, own in p.items()}
  one, other = decided.values()
  p_one, p_other = (np.maximum(own, 1e-9) for own in p.values())
  out = dict(
    rows=len(inputs),
    labels=list(names),
    agreement=float((one == other).mean()),
    kl=float((p_one * np.log(p_one / p_other)).sum(1).mean()),
    models={name: {} for name in p},
  )
  rated = np.zeros(0, int) if label is None else np.flatnonzero(label >= 0)
  if len(rated):
    out['labelled'] = len(rated)
    for name, own in p.items():
      error, bins = calibration(own[rated], label[rated])
      out['models'][name] |= dict(
        accuracy=float((decided[name][rated] == label[rated]).mean()),
        classes=classes(decided[name][rated], label[rated], names),
        calibration_error=error,
        bins=bins,
      )
    sides = ([own[rated]] for own in (other, one))
    out['difference'] = stats.paired('accuracy', *sides, label[rated], _RESAMPLES)._asdict()
  return out, p


def costs(models: dict[str, predict.Classifier], inputs: list) -> dict[str, dict[str, float]]:
  """Of each model, in turn: rows a second, and the median ms of a row alone."""
  many = inputs[:512]
  rates = evaluate.speed(
    {name: lambda own=own: own(many) for name, own in models.items()}, len(many)
  )
  # Alone: not in a batch that is filled up.
  calls = {name: lambda row, own=own: own.at_once([row]) for name, own in models.items()}
  ms = evaluate.latency(calls, inputs[:_ALONE])
  return {name: dict(rows_per_second=rates[name], latency_ms=ms[name]) for name in models}


def _read(asked) -> tuple[list, list | None]:
  """(texts, or pairs of them; values of the label column or None)."""
  columns = files.read(asked.data)
  for flag, name in (('text', asked.text), ('pair', asked.pair), ('label', asked.label)):
    if name and name not in columns:
      raise ValueError(
        f'{asked.data} has no column {name}: --{flag} is one of {", ".join(columns)}'
      )
  text = lambda name: sources.strings(columns[name], f'{asked.data}, column {name}')  # noqa: E731
  first = text(asked.text)
  inputs = list(zip(first, text(asked.pair), strict=True)) if asked.pair else first
  return inputs, columns[asked.label] if asked.label else None


def _load(asked) -> dict[str, predict.Classifier]:
  folders = [asked.a, asked.b]
  names = [folder.rstrip('/').removesuffix('/model') for folder in folders]
  if names[0] == names[1]:
    raise ValueError(f'{folders[0]} and {folders[1]} are one model: compare two')
  short = [name.rpartition('/')[2] for name in names]
  names = short if short[0] != short[1] else names
  found = {
    name: predict.of_text(f, asked.batch_size, asked.max_length)
    for name, f in zip(names, folders, strict=True)
  }
  one, other = found.values()
  for name, model in found.items():
    if model.kind != 'classes':
      raise ValueError(f'{name} is of {model.kind}: kdjax.compare compares classifiers')
  if sorted(one.labels) != sorted(other.labels):
    raise ValueError(f'classes differ: {names[0]} has {one.labels}, {names[1]} has {other.labels}')
  return found


def _table(out: dict, draw=report.markdown) -> str:
  head = ['', 'MB', 'rows/s', 'ms a row']
  head += ['accuracy', 'calibration error'] if 'difference' in out else []
  lines = []
  for name, own in out['models'].items():
    line = [name, f'{own["bytes"] / 1e6:.1f}', f'{own["rows_per_second"]:.0f}']
    line += [f'{own["latency_ms"]:.2f}']
    if 'difference' in out:
      line += [f'{own["accuracy"]:.4f}', f'{own["calibration_error"]:.4f}']
    lines.append(line)
  parts = [draw(head, lines)]
  if 'difference' in out:
    head = ['F1', *out['models'], 'rows']
    each = [own['classes'] for own in out['models'].values()]
    parts.append(
      draw(
        head,
        [
          [name, *(f'{own[name]["f1"]:.4f}' for own in each), f'{each[0][name]["rows"]:.0f}']
          for name in out['labels']
        ],
      )
    )
  said = f'decided alike: {out["agreement"]:.2%} of {out["rows"]} rows, KL {out["kl"]:.4f}'
  if 'difference' in out:
    d = out['difference']
    said += (
      f'\naccuracy, second - first: {d["mean"]:+.4f} [{d["low"]:+.4f}, {d["high"]:+.4f}] '
      f'(95 % bootstrap interval, {out["labelled"]} labelled rows)'
    )
  return '\n\n'.join([*parts, said])


def _differ(path: pathlib.Path, inputs: list, p: dict, names: tuple[str, ...], label) -> int:
  """A csv of the rows that are decided otherwise, the most confident disagreements first."""
  one, other = p.values()
  rows = np.flatnonzero(one.argmax(1) != other.argmax(1))
  rows = rows[np.argsort(-(one[rows].max(1) * other[rows].max(1)), kind='stable')]
  with path.open('w', encoding='utf8', newline='') as file:
    out = csv.writer(file)
    out.writerow(['row', 'text', 'pair', 'label', *(f'{n}{s}' for n in p for s in ('', ' p'))])
    for i in rows:
      text, pair = inputs[i] if isinstance(inputs[i], tuple) else (inputs[i], '')
      gold = names[label[i]] if label is not None and label[i] >= 0 else ''
      said = [(names[own[i].argmax()], f'{own[i].max():.4f}') for own in p.values()]
      out.writerow([i + 1, text, pair, gold, *(x for pair in said for x in pair)])
  return len(rows)


def _plot(folder: pathlib.Path, out: dict) -> None:
  """reliability.png and .svg: accuracy by confidence; nothing without matplotlib."""
  try:
    import matplotlib
  except ImportError:
    return
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(4.5, 4.5), layout='constrained')
  axis.plot([0, 1], [0, 1], color='0.7', label='as sure as right')
  for (name, own), mark in zip(out['models'].items(), 'os', strict=True):
    x, y = ([b[key] for b in own['bins']] for key in ('confidence', 'accuracy'))
    axis.plot(x, y, marker=mark, label=f'{name} ({own["calibration_error"]:.3f})')
  axis.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
  axis.legend(title='expected calibration error', fontsize='small')
  for kind in ('png', 'svg'):
    figure.savefig(folder / f'reliability.{kind}', dpi=120)
  pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
  """The command line; bad input is one line."""
  parser = argparse.ArgumentParser(
    prog='python -m kdjax.compare',
    description=__doc__.partition('\n')[0],
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('a', help="a model's folder or HuggingFace id: the teacher, say")
  parser.add_argument('b', help='another one of the same classes: its student')
  parser.add_argument('--data', required=True, help='csv, tsv, jsonl or parquet')
  parser.add_argument('--text', default='text', help='column of the text (text)')
  parser.add_argument('--pair', default='', help='column of the second text')
  parser.add_argument('--label', default='', help='column of the class; rows may lack it')
  parser.add_argument(
    '--out', default='compared', type=pathlib.Path, help='folder for the results (compared)'
  )
  parser.add_argument('--batch_size', default=64, type=int, help='texts computed together (64)')
  parser.add_argument(
    '--max_length', type=int, help='tokens of a text, longer ones are cut (as in training, or 128)'
  )
  parser.add_argument('--debug', action='store_true', help='a traceback of an error')
  asked = parser.parse_args(argv)
  try:
    inputs, values = _read(asked)
    models = _load(asked)
    names = next(iter(models.values())).labels
    where = f'{asked.data}, column {asked.label}'
    label = None if values is None else labels.classes(values, names, where, True)
    report.writable(asked.out, '--out')
  except (ValueError, OSError) as error:
    if asked.debug:
      raise
    sys.exit(f'error: {quote.line(error)}')
  out, p = compare(models, inputs, label)
  for (name, own), folder in zip(costs(models, inputs).items(), (asked.a, asked.b), strict=True):
    out['models'][name] |= own | dict(bytes=_bytes(folder))
  out['differ'] = _differ(asked.out / 'differ.csv', inputs, p, names, label)
  if 'difference' in out:
    _plot(asked.out, out)
  report.write_json(asked.out / 'compare.json', out | dict(versions=report.versions()))
  (asked.out / 'compare.md').write_text(_table(out) + '\n', encoding='utf8')
  print(_table(out, report.shown))
  print(f'{out["differ"]} rows on which they differ: {asked.out}/differ.csv')


def _bytes(folder: str) -> int:
  """Of the weights, where they are here."""
  return sum(file.stat().st_size for file in pathlib.Path(folder).glob('model*.safetensors'))


if __name__ == '__main__':
  try:
    main()
  except KeyboardInterrupt:
    sys.exit('stopped')
