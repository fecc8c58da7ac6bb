"""Runs notebooks as they are committed, and writes them back with what they showed.

python notebooks/run.py [losses ...]

Each runs in an empty folder, which is left behind. What is written has no time, no path of this
machine and no frame of a progress bar but the last, so that its diff is what changed.
"""

import os
import pathlib
import re
import sys
import tempfile

import nbclient
import nbformat

HERE = pathlib.Path(__file__).absolute().parent
METADATA = {
  'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
  'language_info': {'name': 'python'},
}


def names() -> list[str]:
  """Every notebook there is."""
  return sorted(path.stem for path in HERE.glob('*.ipynb'))


def read(name: str) -> nbformat.NotebookNode:
  """The notebook as it lies here."""
  return nbformat.read(HERE / f'{name}.ipynb', as_version=4)


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path, **env: str) -> None:
  """Runs all cells in a folder, with this checkout's kdjax; outputs go into the notebook.

  env: variables that the kernel has beside those of this process.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  client = nbclient.NotebookClient(
    notebook,
    timeout=1800,  # seconds a cell; machines are busy
    startup_timeout=300,
    record_timing=False,
    resources=dict(metadata=dict(path=str(folder))),
  )
  quiet = {'PYTHONWARNINGS': 'ignore:IProgress not found'}  # of tqdm, where ipywidgets is not
  client.execute(env=os.environ | quiet | {'PYTHONPATH': str(HERE.parent)} | env)


def clean(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> None:
  """Leaves in it what a reader wants, whoever ran it."""
  notebook.metadata = nbformat.from_dict(METADATA)
  for cell in notebook.cells:
    cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == 'tags'})
    if cell.cell_type == 'code':
      cell.outputs = _joined(cell.outputs)
      for output in cell.outputs:
        if output.output_type == 'stream':
          output.text = shown(output.text, folder)


def _joined(outputs: list) -> list:
  """Outputs with pieces of one stream as one: where it is cut is a matter of time."""
  found = []
  for output in outputs:
    last = found[-1] if found else {}
    if output.output_type == 'stream' and last.get('name') == output.name:
      last.text += output.text
    else:
      found.append(output)
  return found


def shown(text: str, folder: pathlib.Path) -> str:
  """A stream as a terminal would show it in the end, without colours and the paths of here."""
  text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text).replace('\r\n', '\n')
  lines = (re.split(r'\r+', line.rstrip('\r'))[-1].rstrip() for line in text.split('\n'))
  text = '\n'.join(lines)
  packages = next((p for p in sys.path if p.endswith('site-packages')), sys.prefix)
  for path, word in ((folder, '.'), (packages, '...'), (sys.prefix, '...'), (HERE.parent, '...')):
    text = text.replace(str(path), word)
  return text


def main(wanted: list[str]) -> None:
  """Runs those named, or all."""
  for name in wanted or names():
    notebook = read(name)
    with tempfile.TemporaryDirectory() as folder:
      execute(notebook, pathlib.Path(folder))
      clean(notebook, pathlib.Path(folder))
    nbformat.write(notebook, HERE / f'{name}.ipynb')
    print(f'{name}.ipynb')


if __name__ == '__main__':
  main([pathlib.Path(name).stem for name in sys.argv[1:]])
