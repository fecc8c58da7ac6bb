"""Tables, plots and pages of a grid.json: what is in them, and that they read back."""

import copy
import csv
import html.parser
import io
import json
import pathlib
import re

import numpy as np
import pytest

from kdjax.grid import cells, docs, joined, page, plots, setting, summary, tables
from tests.grid import made

DOCS = pathlib.Path(__file__).parents[2] / 'docs'


@pytest.fixture(scope='module')
def grid():
  return made.grid()


def test_a_difference_says_whether_zero_is_inside():
  shown = lambda mean, low, high: cells.difference(  # noqa: E731
    dict(mean=mean, low=low, high=high, decided=low > 0 or high < 0)
  )
  assert shown(0.01234, 0.001, 0.02) == '+0.0123 [+0.0010, +0.0200]'
  assert shown(0.01, -0.001, 0.02) == '+0.0100 [-0.0010, +0.0200] ~'
  assert shown(-0.01, -0.03, -0.001) == '-0.0100 [-0.0300, -0.0010]'
  assert cells.difference(None) == ''
  row = dict(share=dict(a=0.8251, b=-0.1, c=None))
  assert [cells.closed(row, split) for split in 'abcd'] == ['83 %', '-10 %', 'n/a', '']


def test_the_overview_has_each_method_and_the_mean_over_settings(grid):
  table = summary.overview(grid)
  assert table.head == ['', 'rte accuracy', 'mnli 10 % accuracy', 'mnli accuracy', 'mean']
  assert [line[0] for line in table.lines] == ['teacher', 'finetune', 'kd', 'aug_pro']
  values = [float(cell.split(' ')[0]) for cell in table.lines[2][1:]]
  assert values[3] == pytest.approx(sum(values[:3]) / 3, abs=1e-4)
  assert 'no checkpoint was chosen' in table.note and 'zero is inside' in table.note


def test_tables_are_there_for_what_was_measured_and_not_for_the_rest(grid):
  titles = [table.title for table in tables.all_of(grid)]
  assert titles[:2] == ['All methods', 'Against kd']
  assert titles[2:4] == ['Gains', "Share of the teacher's score"]
  assert 'mnli: out of domain, accuracy' in titles and 'rte: out of domain, accuracy' not in titles
  assert 'mnli: parts of hans, accuracy' in titles and 'rte: cost' in titles
  (merged,) = {t.note for t in tables.all_of(grid) if 'out of domain' in t.title}
  assert 'hans has entailment, non-entailment' in merged and 'taken first' in merged
  text = cells.markdown(summary.gains(grid))
  assert '+0.0200 [-0.0100, +0.0500] ~' in text and 'n/a' in text and '83 %' in text


def test_the_share_of_the_teacher_names_the_best_method_and_the_best_combination(grid):
  made = copy.deepcopy(grid)
  mean = dict(teacher=0.8, finetune=0.6, kd=0.7, aug_pro=0.75)
  for row in made['rows']:
    row['scores']['validation']['accuracy'] = [mean[row['run']] - 0.01, mean[row['run']] + 0.01]
    if row['task'] == 'rte' and row['run'] == 'kd':
      row['scores']['train_rest'] = dict(accuracy=[0.4])
    if row['task'] == 'rte' and row['run'] == 'teacher':
      row['scores']['train_rest'] = dict(accuracy=[0.5])
  table = summary.kept(made)
  assert table.head == ['', 'rte', 'rte, train_rest', 'mnli 10 %', 'mnli', 'mean']
  lines = {line[0]: line[1:] for line in table.lines}
  assert lines['kd'] == ['87.5 %', '80.0 %', '87.5 %', '87.5 %', '87.5 %']
  assert lines['aug_pro'] == ['93.8 %', '', '93.8 %', '93.8 %', '93.8 %'] and len(lines) == 3
  assert 'Highest: rte: kd, of combinations aug_pro; rte, train_rest: kd;' in table.note
  made['rows'] = [row for row in made['rows'] if row['run'] != 'teacher']
  assert summary.kept(made).lines == []  # nothing to take a share of


def test_like_is_compared_with_like(grid):
  made = copy.deepcopy(grid)
  for row in made['rows']:
    if row['run'] == 'aug_pro':
      if row['task'] == 'rte':
        row['parameters'] *= 2
      else:
        row['rows'] = 1000
        row['fields'] = {}
  note = summary.kept(made).note
  assert 'rte: kd, of another size aug_pro; mnli 10 %: kd, with more rows aug_pro;' in note
  (titled,) = [t for t in tables.all_of(made) if t.title.startswith('mnli: 1')]
  assert titled.title == 'mnli: 100 training rows'
  (cost,) = [t for t in tables.all_of(made) if t.title == 'mnli: cost']
  assert [line[2] for line in cost.lines] == ['100', '100', '100', '1,000']


def test_f1_elsewhere_stands_beside_the_accuracy_and_is_no_part(grid):
  made = copy.deepcopy(grid)
  rows = setting.rows(made, 'mnli', 1.0)
  rows[2]['ood']['hans']['f1'] = [0.25, 0.5, 0.75]  # of who was scored since
  table = tables.elsewhere(rows, made)
  assert table.head == ['', 'hans', 'hans - kd', 'hans f1']
  assert [line[3] for line in table.lines] == ['', '', '0.5000 ± 0.2500', '']
  (parts,) = tables.subsets(rows)
  assert parts.head == ['', 'lexical, entailment']


def test_verdicts_count_settings_on_which_zero_is_outside(grid):
  made = copy.deepcopy(grid)
  below = dict(mean=-0.05, low=-0.06, high=-0.04, decided=True)
  for row in made['rows']:
    if (row['task'], row['fraction'], row['run']) == ('mnli', 0.1, 'aug_pro'):
      row['difference']['validation'] = below
  table = summary.verdicts(made)
  assert table.head[1:5] == ['settings', 'above kd', 'not shown', 'below kd']
  assert table.lines == [
    ['finetune', '3', '0', '3', '0', '+0.0200', '0.7'],
    ['aug_pro', '3', '2', '0', '1', '+0.0033', '1.3'],
  ]
  for row in made['rows']:  # --resamples=0
    for found in row['difference'].values():
      found.update(low=np.nan, high=np.nan)
  assert summary.verdicts(made).lines == []


def test_csv_reads_back_to_the_same_numbers(grid):
  rows = list(csv.DictReader(io.StringIO(tables.tidy(grid))))
  for row in grid['rows']:
    own = [r for r in rows if (r['task'], float(r['fraction']), r['run']) == (
      row['task'], row['fraction'], row['run'])]  # fmt: skip
    for part in ('scores', 'ood', 'agreement'):
      for split, numbers in row[part].items():
        for name, values in numbers.items():
          found = [float(r['value']) for r in own
                   if (r['part'], r['split'], r['name']) == (part, split, name)]  # fmt: skip
          assert found == values
    assert {float(r['value']) for r in own if r['name'] == 'seconds'} == {row['cost']['seconds']}


def _read_tabular(text: str) -> list[list[str]]:
  lines = [line for line in text.splitlines() if line.endswith(r'\\')]
  plain = {r'\&': '&', r'\%': '%', r'\_': '_', r'\textasciitilde{}': '~', r'$\pm$': '±'}
  cells = []
  for line in lines:
    row = re.split(r'(?<!\\) & ', line.removesuffix(r' \\'))
    for code, sign in plain.items():
      row = [cell.replace(code, sign) for cell in row]
    cells.append(row)
  return cells


def test_latex_reads_back_to_the_same_cells(grid):
  for table in tables.all_of(grid):
    text = cells.latex(table)
    assert _read_tabular(text) == [table.head, *table.lines]
    assert text.count('{l' + 'r' * (len(table.head) - 1) + '}') == 1
    bare = re.sub(r'\\[&%_#$]|\\text\w+\{\}|\$\\pm\$', '', text.split(r'\toprule')[1])
    assert not set('%$#_~^') & set(bare)


class _Links(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.loaded, self.tags = [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.loaded += [v for k, v in attrs if k in ('src', 'href', 'srcset', 'data', 'action')]


def test_the_page_loads_nothing_and_holds_all(grid):
  figures = plots.all_of(grid)
  text = page.page(grid, tables.all_of(grid), figures, ['glue/x: no zip'])
  reader = _Links()
  reader.feed(text)
  assert reader.loaded and all(link.startswith('data:image/png;base64,') for link in reader.loaded)
  assert not {'script', 'link', 'iframe', 'object', 'base'} & set(reader.tags)
  assert 'url(' not in text and '@import' not in text
  assert reader.tags.count('img') == len(figures)
  for said in ('a &lt;b&gt;', 'a &amp; c', 'kdjax.reproduce', 'glue/x: no zip', '&quot;seed&quot;'):
    assert said in text
  assert reader.tags.count('table') == len(tables.all_of(grid)) + 3  # and samples


def test_plots_are_written_as_png_and_svg(grid, tmp_path):
  figures = plots.all_of(grid)
  assert set(figures) == {
    'curves_rte_1', 'curves_mnli_0.1', 'curves_mnli_1', 'gap', 'cost', 'size_mnli',
  }  # fmt: skip
  few = {name: figures[name] for name in ('gap', 'size_mnli')}
  plots.save(few, tmp_path)
  for name in few:
    assert (tmp_path / f'{name}.png').read_bytes()[:4] == b'\x89PNG'
    assert '<svg' in (tmp_path / f'{name}.svg').read_text()


def test_the_gap_is_a_cell_for_each_run_that_has_one(grid):
  axis = plots.gap(grid).axes[0]
  names = [text.get_text() for text in axis.get_yticklabels()]
  places = [text.get_text() for text in axis.get_xticklabels()]
  shown = {(names[y], places[x]): t.get_text() for t in axis.texts for x, y in [t.get_position()]}
  assert shown == {('kd', 'rte'): '83', ('aug_pro', 'rte'): '83'}


def test_of_many_curves_the_base_and_the_highest_have_names(grid):
  rows = [copy.deepcopy(row) for row in setting.rows(grid, 'rte', 1.0)]
  for n in range(9):
    more = copy.deepcopy(rows[-1]) | dict(run=f'other{n}')
    more['curve']['accuracy'] = [[0.4, 0.5 + n / 100]] * 3
    rows.append(more)
  axis = plots.curves(rows).axes[0]
  said = {text.get_text() for text in axis.get_legend().texts}
  highest = {f'other{n}' for n in range(4, 9)}
  assert said == {'finetune', 'kd', 'teacher', '5 others', *highest}
  assert len(axis.lines) == 12 + 2  # all are drawn


def test_shares_have_the_runs_that_have_several_and_what_they_scored(grid):
  rows = [row for row in grid['rows'] if row['task'] == 'mnli']
  alone = dict(rows[-1], run='alone')
  figure = plots.size(dict(grid, rows=[*grid['rows'], alone]), 'mnli')
  assert plots.size(dict(grid, rows=[alone]), 'mnli') is None
  for axis in figure.axes:
    split, metric = axis.get_ylabel().split()
    want = {}
    for row in rows:
      if split in row['scores']:
        point = 100 * row['fraction'], np.mean(row['scores'][split][metric])
        want.setdefault(row['run'], set()).add(point)
    found = {
      bars.get_label(): {tuple(map(float, point)) for point in bars.lines[0].get_xydata()}
      for bars in axis.containers
    }
    assert found == {run: points for run, points in want.items() if len(points) > 1} != {}
  assert figure.axes[0].get_ylabel().startswith(setting.judge(rows[0]))


def test_costs_have_a_panel_for_each_task_and_a_name_for_each_run(grid):
  figure = plots.cost(grid)
  rows = [r for r in grid['rows'] if r['difference'].get(setting.judge(r))]
  assert len(figure.axes) == len({(r['task'], r['fraction']) for r in rows}) > 1
  assert {text.get_text() for text in figure.legends[0].texts} == {r['run'] for r in rows}
  assert sum(len(axis.containers) for axis in figure.axes) == len(rows)
  lines = [found for axis in figure.axes for found in axis.containers]
  shown = {(float(x), float(y)) for line in lines for x, y in [line.lines[0].get_xydata()[0]]}
  assert shown == {
    (r['cost']['relative'], r['difference'][setting.judge(r)]['mean']) for r in rows
  }  # fmt: skip


def test_the_docs_have_the_tables_and_no_folder_of_a_machine(grid):
  text = docs.page(dict(a=grid))
  assert text.startswith('# Results\n') and text.count('## All methods') == 1
  folders = [f'--config.{field}=<folder>' for field in ('data.dir', 'grid.text', 'teacher.init')]
  assert ' '.join([*folders, '--config.seeds=3']) in text and '/home/me' not in text
  assert all(cells.markdown(table) in text for table in tables.all_of(grid))


def test_folders_after_a_space_are_no_business_of_the_docs_either():
  given = 'python -m kdjax.reproduce --config=configs/grid.py:{} --resamples {}'
  want = given.format('glue --workdir <folder> --config.data.dir <folder>', 9)
  for said in (given.format('glue --workdir /home/me --config.data.dir me/glue', 9), want):
    assert docs._command(dict(commands=[said])) == want


def test_grids_of_several_days_are_one_page(grid):
  kept = docs.kept(grid)
  assert not re.search('/home/me|a <b>', json.dumps(kept))  # no folder, no text of the data
  assert docs.page(dict(a=kept)) == docs.page(dict(a=grid))
  assert joined.of(dict(a=grid, b=kept))['rows'] == grid['rows']  # the same scores stand once
  later = copy.deepcopy(grid)
  for row in later['rows']:
    row['run'] = 'codir' if row['run'] == 'aug_pro' else row['run']
    if (row['task'], row['run']) == ('rte', 'kd'):
      row['scores']['validation']['accuracy'][0] += 0.01
    if row['task'] == 'mnli' and row['run'] == 'codir':  # asked for no sets from elsewhere
      row['ood'] = row['classes'] = {}
  found = joined.of(dict(a=grid, later=later))
  names = [row['run'] for row in setting.rows(found, 'rte', 1.0)]
  assert names == ['teacher', 'finetune', 'kd', 'kd (later)', 'aug_pro', 'codir']
  assert [row['run'] for row in setting.rows(found, 'mnli', 1.0)][-2:] == ['aug_pro', 'codir']
  page = docs.page(dict(a=grid, later=later))
  assert page.count('kdjax.reproduce --config') == 2 and '\nlater: ' in page
  (again,) = [row for row in found['rows'] if row['run'] == 'kd (later)']
  assert again['cost']['relative'] is None and not again['curve']  # no KD to be measured by


def test_a_run_that_stands_again_has_the_names_of_all_its_commands(grid):
  later, last = copy.deepcopy(grid), copy.deepcopy(grid)
  for other in (later, last):
    for row in other['rows']:
      if row['run'] in ('teacher', 'kd') and row['task'] == 'rte':
        row['scores']['development']['accuracy'][0] += 0.001
  for row in last['rows']:
    if (row['task'], row['run']) == ('rte', 'kd'):  # scored on more
      row['scores']['train_rest'] = row['scores']['validation']
  rows = setting.rows(joined.of(dict(a=grid, later=later, last=last)), 'rte', 1.0)
  (again,) = [row for row in rows if row['run'] == 'kd (later, last)']
  assert 'train_rest' in again['scores'] and again['cost']['relative'] is None
  assert not again['curve'] and again['teacher'] == rows[1]['scores'] != rows[0]['scores']
  assert setting.runs(dict(rows=rows))[:4] == [
    'teacher', 'teacher (later, last)', 'finetune', 'kd'
  ]  # fmt: skip
  cost = tables.cost(rows, grid)
  assert [line[5] for line in cost.lines[:2]] == ['', '']  # nobody asks what a teacher costs


def test_the_share_is_that_of_a_rows_own_teacher(grid):
  made = copy.deepcopy(grid)
  rows = setting.rows(made, 'rte', 1.0)
  rows[2]['teacher'] = dict(validation=dict(accuracy=[0.5]))
  score = np.mean(rows[2]['scores']['validation']['accuracy'])
  (line,) = [line for line in summary.kept(made).lines if line[0] == 'kd']
  assert line[1] == f'{100 * score / 0.5:.1f} %'


def test_a_split_that_a_teacher_alone_was_scored_on_has_no_shares(grid):
  made = copy.deepcopy(grid)
  made['rows'][0]['scores']['train_rest'] = dict(accuracy=[0.5])
  assert 'rte, train_rest' not in summary.kept(made).head


def test_a_gap_is_that_to_the_fine_tuned_student_of_another_command(grid):
  alone = copy.deepcopy(grid)
  alone['rows'] = [row for row in alone['rows'] if row['run'] in ('teacher', 'kd')]
  for row in alone['rows']:
    if row['run'] == 'kd':
      row.update(run='codir', share={})
      row['parameters'] *= 2 if row['task'] == 'rte' else 1
    elif row['fraction'] == 0.1:  # another teacher
      row['scores']['validation']['accuracy'] = [0.9]
  found = joined.of(dict(a=grid, alone=alone))
  share = lambda task, fraction: {  # noqa: E731
    row['run']: row['share'] for row in setting.rows(found, task, fraction)
  }
  mean = {
    row['run']: np.mean(row['scores']['validation']['accuracy'])
    for row in setting.rows(grid, 'mnli', 1.0)
  }
  assert mean['teacher'] < mean['finetune'] and share('mnli', 1.0)['codir']['validation'] is None
  for row in (*grid['rows'], *alone['rows']):  # a teacher that is above its student
    if row['run'] == 'teacher' and row['fraction'] == 1.0:
      row['scores']['validation']['accuracy'] = [0.9]
  found = joined.of(dict(a=grid, alone=alone))
  want = (mean['kd'] - mean['finetune']) / (0.9 - mean['finetune'])
  assert share('mnli', 1.0)['codir']['validation'] == pytest.approx(want)
  assert 'validation' not in share('mnli', 0.1)['codir']  # its teacher has another score
  assert 'validation' not in share('rte', 1.0)['codir']  # that student is smaller
  assert share('mnli', 1.0)['aug_pro'] == {'validation': None}  # its own command's


def test_a_split_that_some_runs_were_not_scored_on_leaves_their_cells_empty(grid):
  fuller = copy.deepcopy(grid)
  better = dict(mean=0.04, low=0.03, high=0.05, decided=True)
  for row in fuller['rows']:
    if (row['task'], row['fraction']) == ('mnli', 0.1):
      row['scores']['train_rest'] = row['scores']['validation']
      row['difference'] |= dict(train_rest=better) if row['run'] == 'aug_pro' else {}
  found = joined.of(dict(a=fuller, b=grid))
  assert found['rows'] == fuller['rows']  # the same run, scored on more
  assert joined.of(dict(b=grid, a=fuller))['rows'] == fuller['rows']
  apart = copy.deepcopy(grid)
  for row in apart['rows']:
    row['scores'] = dict(test=row['scores']['validation'])
  assert len(joined.of(dict(a=grid, b=apart))['rows']) == 2 * len(grid['rows'])
  other = copy.deepcopy(grid['rows'][6] | dict(run='codir'))
  assert (other['task'], other['fraction']) == ('mnli', 0.1)
  found['rows'].append(other)
  table = tables.results(setting.rows(found, 'mnli', 0.1), found)
  at = table.head.index('train_rest accuracy - kd')
  assert [line[at] for line in table.lines][3:] == ['+0.0400 [+0.0300, +0.0500]', '']
  gains = summary.gains(found)
  (at,) = [n for n, name in enumerate(gains.head) if name.endswith('train_rest accuracy - kd')]
  assert {line[0]: line[at] for line in gains.lines if line[at]} == {
    'aug_pro': '+0.0400 [+0.0300, +0.0500]'
  }


def test_the_results_of_the_documentation_are_those_that_are_kept():
  kept = sorted((DOCS / 'grids').glob('*.json'))
  grids = docs.read(kept)
  page = (DOCS / 'results.md').read_text()
  pictures = re.findall(r'!\[\w+\S*\]\((.*)\)', page)
  assert page == docs.page(grids, pictures)
  assert {path.name for path in (DOCS / 'plots').iterdir()} == {
    path.removeprefix('plots/') for path in pictures
  }
  assert all(grid == docs.kept(grid) for grid in grids.values())


def test_the_command_keeps_and_writes(grid, tmp_path, monkeypatch, capsys):
  (tmp_path / 'grid.json').write_text(json.dumps(grid))
  run = lambda *flags: (monkeypatch.setattr('sys.argv', ['docs', *map(str, flags)]), docs.main())  # noqa: E731
  kept, out = tmp_path / 'sst2.json', tmp_path / 'results.md'
  run(f'--keep={kept}', tmp_path / 'grid.json')
  run(f'--out={out}', f'--plots={tmp_path / "plots"}', kept)
  run(f'--keep={kept}', '--note=a tenth', tmp_path / 'grid.json')
  run(f'--keep={kept}', tmp_path / 'grid.json')  # measured anew: it is still a tenth
  run(f'--out={out}', f'--plots={tmp_path / "plots"}', kept)
  assert '- sst2: a tenth\n' in out.read_text()
  pictures = re.findall(r'!\[\w+\S*\]\((.*)\)', out.read_text())
  assert 'plots/gap.png' in pictures and all((tmp_path / path).is_file() for path in pictures)
  for flags, said in (
    ([f'--keep={kept}', kept, kept], 'is for one grid, 2 are named'),
    ([kept], 'nothing to write'),
    ([f'--plots={tmp_path}', f'--keep={kept}', kept], 'nothing to write'),
  ):
    with pytest.raises(SystemExit):
      run(*flags)
    assert said in capsys.readouterr().err
  (tmp_path / 'other').mkdir()
  twin = kept.rename(tmp_path / 'other/sst2.json')
  kept.write_text(twin.read_text())
  with pytest.raises(SystemExit, match=r'other/sst2.json: another grid is called sst2'):
    run(f'--out={out}', kept, twin)
