"""What config.train.refit_bias would have given finished runs, from their written predictions.

python -m benchmarks.refit --workdir=<workdir of kdjax.reproduce>/<task>/train<share> \
  --methods=finetune,kd,augpro --judge=validation+test

The same function fits the same rows, those that chose the checkpoints (development), as a run with
that field does at its end: nothing is trained. Markdown, of each method without and with it: the
metric, mean and standard deviation (n - 1) over seeds, how often class 1 is said, and the paired
difference from --base, which has it too, with kdjax.reproduce's interval (~: zero is inside).
"""

import argparse
import pathlib

import numpy as np

from kdjax import metrics, refit
from kdjax.grid import stats


def decided(folder: pathlib.Path, judge: str, new: bool) -> tuple[np.ndarray, np.ndarray]:
  """(decisions i[S, n] of S seeds on split `judge`, labels i[n]); new: with a bias fitted."""
  with np.load(folder / 'development.npz') as chose, np.load(folder / f'{judge}.npz') as file:
    logits_SNC, label_N = file['logits'], file['label']
    if new:
      by_SC = [refit.bias(own, chose['label']) for own in chose['logits']]
      logits_SNC = logits_SNC + np.array(by_SC)[:, None]
  return logits_SNC.argmax(2), label_N


def rows(workdir: pathlib.Path, methods: list[str], judge: str, base: str, names: list[str]):
  """Of each method without and with it: (method, 'no' or 'yes', cells of the table)."""
  theirs = {new: decided(workdir / base / 'predictions', judge, new)[0] for new in (False, True)}
  for method in methods:
    for new, base_Sn in theirs.items():
      own_Sn, label_n = decided(workdir / method / 'predictions', judge, new)
      cells = []
      for name in names:
        found = [metrics.compute((name,), seed, label_n)[name] for seed in own_Sn]
        spread = f' ± {np.std(found, ddof=1):.4f}' if len(found) > 1 else ''
        cells.append(f'{np.mean(found):.4f}{spread}')
        cells.append('')
        if method != base and len(own_Sn) == len(base_Sn):
          gap = stats.paired(name, list(own_Sn), list(base_Sn), label_n, 2000)
          said = f'{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]'
          cells[-1] = said if gap.decided else f'{said} ~'
      yield method, ('no', 'yes')[new], [*cells, f'{(own_Sn == 1).mean():.1%}']


def main(argv: list[str] | None = None) -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workdir', required=True, type=pathlib.Path)
  parser.add_argument('--methods', required=True, help='by commas')
  parser.add_argument('--judge', default='validation', help='a split of <run>/predictions')
  parser.add_argument('--base', default='kd')
  parser.add_argument('--metrics', default='accuracy', help='by commas')
  args = parser.parse_args(argv)
  names = args.metrics.split(',')
  head = ['', 'refit', *(cell for n in names for cell in (n, f'less {args.base}')), 'says class 1']
  print('| ' + ' | '.join(head) + ' |\n|' + '---|' * len(head))
  for method, new, cells in rows(
    args.workdir, args.methods.split(','), args.judge, args.base, names
  ):
    print('| ' + ' | '.join([method, new, *cells]) + ' |')


if __name__ == '__main__':
  main()
