"""The embedded corpus: which library does a sentence of documentation come from?

Six libraries that are installed anyway are six classes, and the summaries of their docstrings are
the text: a real task of a few thousand short texts, with no download and nobody's data in here.
Files are found, read and parsed, never imported or run.

What would give the class away without reading is taken out: names of the libraries, markup (each
house has its own), texts that two libraries share.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.util
import pathlib
import re
from collections.abc import Iterator

LABELS = ('numpy', 'scipy', 'jax', 'pandas', 'matplotlib', 'transformers')
SPLITS = {'train': 400, 'validation': 200, 'test': 200}  # per class
WORDS = (4, 60)  # shortest and longest text
_ENOUGH = 2  # candidates read per text wanted; transformers alone has 20,000 docstrings

# numpy.distutils is there for some versions of Python and not for others.
_SKIP = re.compile(
  r'tests?|testing|conftest|distutils|extern(al)?|_?vendored|.*_generated|_version', re.I
)
_SECTION = re.compile(
  r'(args|arguments|parameters?|returns?|raises|examples?|notes?|usage|attributes|references|'
  r'see also|yields|warnings?|inputs?|outputs?|todo)\b\s*:?\s*$|\.\. |[-=~*#]{3,}|>>>|```|[-*] ',
  re.I,
)
# Tables, doctests, templates of docstring decorators, lists of parameters, and text that no
# library wrote for itself.
_JUNK = re.compile(
  r'>>>|```|\{|%\(|={3,}|-{3,}|~{3,}|\+-|https?://|\(C\)|copyright|licen[sc]e|deprecat|'
  r'discouraged|implementation of :|refer to|auto-?generated|^\S+( \(| ?:(?= |$)|=)|'
  r'^(args|parameters|returns?|examples?|input)\b ?:|'
  r'^\S*\(|[a-z_]\(.*\) ?->',
  re.I,
)
_ROLE = re.compile(r':[a-z]+(?::[a-z]+)*:`~?\.?([^`<]*?)(?:\s*<[^`]*>)?`')
_LINK = re.compile(
  r'\[([^\]]+)\]\([^)]*\)|`([^`<]+?)\s*<[^`>]*>`_*|(?<!\w)\[[`~]*([A-Za-z_][\w.]*)`?\]'
)
_MARKUP = re.compile(
  r'``?~?|\*+(?=\w)|(?<=\w)\*+|(?<=\w)`_|\\|'
  r'(?<!\S)\.(?=[A-Za-z_])'  # .Artist
)
_NAMES = re.compile(
  r'\b(?:(?:numpy|np|jnp|scipy|jax|jaxlib|pandas|pd|matplotlib|mpl|plt|pyplot|transformers|'
  r'hugging ?face|hf)\b(?:(?:\.|\s+)(?=(?:numpy|scipy)\b))?)+',
  re.I,
)


def corpus() -> dict[str, list[tuple[str, int]]]:
  """Split name -> (text, class) rows, balanced over the classes.

  A pure function of the libraries' files: neither the file system's order, the hash seed nor the
  version of Python decides what is chosen.

  Raises:
    ValueError: a library is not installed; the message has the command that installs it.
  """
  roots = {name: _root(name) for name in LABELS}
  missing = [name for name, root in roots.items() if root is None]
  if missing:
    raise ValueError(
      f'the embedded corpus reads the documentation of {", ".join(LABELS)}, and '
      f'{", ".join(missing)} cannot be found: pip install {" ".join(missing)}, or name other text '
      'with config.data.source'
    )
  want = sum(SPLITS.values())
  with _no_collection():
    found = {name: _texts(root, _ENOUGH * want) for name, root in roots.items()}
  owners: dict[str, set[str]] = {}
  for name, texts in found.items():
    for key in texts:
      owners.setdefault(key, set()).add(name)
  kept = {
    name: sorted((text for key, text in texts.items() if len(owners[key]) == 1), key=_order)
    for name, texts in found.items()
  }
  # Other versions may have less to read: all classes shrink with the smallest.
  share = min(1.0, min(map(len, kept.values())) / want)
  rows: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
  for label, name in enumerate(LABELS):
    start = 0
    for split, size in SPLITS.items():
      stop = start + int(size * share)
      rows[split] += [(text, label) for text in kept[name][start:stop]]
      start = stop
  for split in rows.values():
    split.sort(key=lambda row: _order(row[0]))
  return rows


def _root(name: str) -> pathlib.Path | None:
  spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
  return None if spec is None or spec.origin is None else pathlib.Path(spec.origin).parent


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
  """Syntax trees are millions of objects and no cycles: the collector would triple the time."""
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if enabled:
      gc.enable()


def _order(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def _texts(root: pathlib.Path, enough: int) -> dict[str, str]:
  """Normalised text -> text of `enough` summaries; files are taken in the order of their hashes."""
  paths = {path.relative_to(root).as_posix(): path for path in root.rglob('*.py')}
  texts: dict[str, str] = {}
  for name in sorted(paths, key=_order):
    if any(_SKIP.fullmatch(part.removesuffix('.py')) for part in name.split('/')):
      continue
    for doc in _docstrings(paths[name]):
      text = summary(doc)
      if text:
        # Case, punctuation and numbers aside, the same sentence is the same sentence.
        texts.setdefault(re.sub(r'[\W\d_]+', ' ', text.casefold()).strip(), text)
    if len(texts) >= enough:
      break
  return texts


def _docstrings(path: pathlib.Path) -> Iterator[str]:
  try:
    tree = ast.parse(path.read_bytes())
  except SyntaxError:  # written for a newer Python than this one
    return
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  stack: list[ast.AST] = [tree]
  while stack:
    node = stack.pop()
    if isinstance(node, kinds):
      doc = ast.get_docstring(node)
      if doc:
        yield doc
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
      yield from _given(node.value)
    # Expressions hold no docstrings, and most of a tree is expressions.
    stack += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def _given(call: ast.Call) -> Iterator[str]:
  """What NumPy writes for its functions in C: add_newdoc(place, name, text or (member, text))."""
  if not getattr(call.func, 'id', '').startswith('add_newdoc') or not call.args:
    return
  last = call.args[-1].elts[-1:] if isinstance(call.args[-1], ast.Tuple) else [call.args[-1]]
  for node in last:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


def summary(doc: str) -> str:
  """The first paragraph as plain prose, the second too where the first is short; '' for junk."""
  paragraphs = [part for part in re.split(r'\n\s*\n', doc.strip()) if part.strip()]
  if not paragraphs:
    return ''
  text = _plain(paragraphs[0])
  if not text:
    return ''
  if len(text.split()) < 10 and len(paragraphs) > 1:
    more = _plain(paragraphs[1])
    if more and len(more.split()) <= WORDS[1] - 10:
      text = f'{text.rstrip(" .")}. {more}'
  words = text.split()
  prose = sum(
    re.fullmatch(r"[(\"']?[A-Za-z][a-z'-]*[)\"'.,;:]*", word) is not None for word in words
  )
  return text if WORDS[0] <= len(words) <= WORDS[1] and prose >= 0.7 * len(words) else ''


def _plain(paragraph: str) -> str:
  """A paragraph without markup and names of libraries; '' where it is no prose."""
  lines = [line.strip() for line in paragraph.splitlines()]
  if any(_SECTION.match(line) for line in lines) or _JUNK.search(' '.join(lines)):
    return ''
  text = _ROLE.sub(r'\1', ' '.join(lines))
  text = _LINK.sub(lambda match: match[1] or match[2] or match[3], text)
  text = _NAMES.sub('library', _MARKUP.sub('', text)).rstrip(' :')
  return ' '.join(text.split())
