"""The documentation as a site: python -m sphinx -W -c docs . DIR."""

import pathlib
import re

import kdjax

project, release = 'kdjax', kdjax.__version__
html_title = f'kdjax {release}'
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']

# The source is the repository, so that links between pages are those that a reader of it follows.
root_doc = 'docs/index'
include_patterns = ['README.md', 'docs/*.md', 'launch/README.md', 'notebooks/README.md']
myst_heading_anchors = 4
myst_links_external_new_tab = False

smartquotes = False

html_theme = 'furo'
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
highlight_language = 'none'
pygments_style, pygments_dark_style = 'tango', 'github-dark'

autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
autodoc_default_options = {'members': True, 'exclude-members': '__new__'}
napoleon_numpy_docstring = False
default_role = 'literal'


def _as_sphinx_reads(app, what, name, thing, options, lines):
  """A paragraph that begins with `name: what it is` is fields; other marks of reST are none."""
  inside = False
  for i, line in enumerate(lines):
    field, text = re.fullmatch(r'(?:([a-z_][\w, .]*): )?(.*)', line).groups()
    inside = i and bool(line.strip()) and (inside or (field and not lines[i - 1].strip()))
    if inside:
      line = f':{field}: {text}' if field else f'  {line}'
    lines[i] = re.sub(r'[|*]|_(?!\w)', r'\\\g<0>', line)


def _is_said(app, what, name, thing, skip, options):
  """A field of a NamedTuple is told of by its class."""
  return True if (getattr(thing, '__doc__', None) or '').startswith('Alias for field') else skip


def _first_page(app, error):
  """A site begins with index.html."""
  if not error:
    page = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
    (pathlib.Path(app.outdir) / 'index.html').write_text(page, encoding='utf8')


def setup(app):
  """Called by Sphinx."""
  app.connect('autodoc-process-docstring', _as_sphinx_reads, priority=400)  # before napoleon
  app.connect('autodoc-skip-member', _is_said)
  app.connect('build-finished', _first_page)
