"""Files that the GLUE server takes: one tsv a task, and a zip where all eleven are there."""

import io
import os
import pathlib
import zipfile

import numpy as np

from kdjax import tasks

# By task and test split: the file's name, and its rows in the official test set.
FILES = {
  ('ax', 'test'): ('AX', 1_104),
  ('cola', 'test'): ('CoLA', 1_063),
  ('mnli', 'test_matched'): ('MNLI-m', 9_796),
  ('mnli', 'test_mismatched'): ('MNLI-mm', 9_847),
  ('mrpc', 'test'): ('MRPC', 1_725),
  ('qnli', 'test'): ('QNLI', 5_463),
  ('qqp', 'test'): ('QQP', 390_965),
  ('rte', 'test'): ('RTE', 3_000),
  ('sst2', 'test'): ('SST-2', 1_821),
  ('stsb', 'test'): ('STS-B', 1_379),
  ('wnli', 'test'): ('WNLI', 146),
}
_NAMED = ('mnli', 'ax', 'qnli', 'rte')  # classes by name; the others' by number


def lines(task: str, logits_NC: np.ndarray, index: np.ndarray) -> str:
  """A file's text: a header, then index and prediction of each row in order."""
  spec = tasks.GLUE[task]
  if spec.kind == 'regression':
    said = [f'{v:.3f}' for v in np.clip(logits_NC[:, 0], 0, 5)]
  else:
    said = [spec.labels[k] if task in _NAMED else str(k) for k in logits_NC.argmax(1)]
  out = io.StringIO()
  out.write('index\tprediction\n')
  for i in np.argsort(index):
    out.write(f'{index[i]}\t{said[i]}\n')
  return out.getvalue()


def check(task: str, split: str, text: str) -> None:
  """ValueError unless the server would take this file."""
  name, count = FILES[task, split]
  head, *rows = text.splitlines()
  spec = tasks.GLUE[task]
  known = spec.labels if task in _NAMED else [str(k) for k in range(len(spec.labels))]
  if head != 'index\tprediction' or not text.endswith('\n'):
    raise ValueError(f'{name}.tsv: its first line is {head!r}, or its last has no end')
  if len(rows) != count:
    raise ValueError(f'{name}.tsv: {len(rows)} rows, and the test set has {count}')
  for n, row in enumerate(rows):
    index, tab, said = row.partition('\t')
    good = 0 <= float(said) <= 5 if spec.kind == 'regression' else said in known
    if index != str(n) or not tab or not good:
      raise ValueError(f'{name}.tsv: row {n} is {row!r}')


def write(grid: dict, workdir: pathlib.Path) -> list[str]:
  """<workdir>/glue/train<share>/<run>/seed<n>/*.tsv of every model; what to know of them, by line.

  A file whose rows are not the official test set's is not written. Where all eleven are there, so
  is submission.zip. What holds for several models is said once.
  """
  said, models = {}, {}
  for row in grid['rows']:
    if row['task'] in tasks.GLUE:
      models.setdefault((row['fraction'], row['run']), []).append(row)
  for (fraction, run), rows in models.items():
    for seed in dict.fromkeys(s for row in rows for s in row['seeds']):
      found, remarks = _files(rows, seed, workdir)
      folder = workdir / 'glue' / f'train{fraction:g}' / run / f'seed{seed}'
      missing = [n for n, _ in FILES.values() if n not in found]
      if found:
        _save(folder, found, whole=not missing)
        few = f'{len(found)} of 11 files, without {", ".join(missing)}: no zip'
        remarks.append(few if missing else 'submission.zip, 11 files')
      for line in remarks:
        said.setdefault(line, []).append(folder.relative_to(workdir))
  return [f'{_named(folders)}: {line}' for line, folders in said.items()]


def _save(folder: pathlib.Path, found: dict[str, str], whole: bool) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for stem, text in found.items():
    (folder / f'{stem}.tsv').write_text(text, encoding='utf8')
  if whole:
    with zipfile.ZipFile(folder / 'submission.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
      for stem, text in found.items():
        archive.writestr(f'{stem}.tsv', text)


def _named(folders: list[pathlib.Path]) -> str:
  if len(folders) == 1:
    return str(folders[0])
  return f'{os.path.commonpath(folders)}, {len(folders)} models'


def _files(rows: list[dict], seed: int, workdir: pathlib.Path) -> tuple[dict[str, str], list[str]]:
  """({name: text}, what was refused) of one model: its rows are of several tasks."""
  found, refused = {}, []
  for row in rows:
    if seed not in row['seeds']:
      continue
    at = row['seeds'].index(seed)
    shared = len(row['workdirs']) == 1
    folder = workdir / row['workdirs'][0 if shared else at] / row['run'] / 'predictions'
    for (task, split), (name, _) in FILES.items():
      # The diagnostics are answered by the model of MNLI.
      own = task == row['task'] and folder / f'{split}.npz'
      if task == 'ax' and row['task'] == 'mnli':
        own = folder / 'ax.npz'
      if not own or not own.exists():
        continue
      with np.load(own) as file:
        text = lines(task, file['logits'][at if shared else 0], file['index'])
      try:
        check(task, split, text)
      except ValueError as error:
        refused.append(str(error))
        continue
      found[name] = text
  return found, refused
