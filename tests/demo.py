"""A small book for the browser tests: one notebook with every kind of output, fed with hostile tokens."""

import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dm_utils.build import Layout

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = [
    "</script><img src=x onerror=window.HIT=1>",
    "</SCRIPT ><img src=x onerror=window.HIT=2>",
    "</script\t><script>window.HIT=3</script>",
    "<!--<script>window.HIT=4",
    "&lt;/script&gt;<svg onload=window.HIT=5>",
    "\u2028]]><iframe srcdoc='<script>parent.HIT=6</script>'>",
    "`${window.HIT=7}` $x$ \\(y\\) {{7*7}}",
]
CELLS = [
    new_markdown_cell(
        "# A demonstration\n\nAn equation with a number:\n\n$$\n\\text{SaeError}(x) = x - \\text{Sae}(x)\n$$ (eq-demo)\n\nSee {eq}`eq-demo`."
    ),
    new_code_cell('profile = "lab"\nlayer = None\nn_tokens = 40', metadata={"tags": ["parameters"]}),
    new_code_cell('import dm_utils as dm\n\nchapter = dm.Chapter("demo", globals())\nchapter'),
    new_code_cell(
        "import numpy as np\nimport pandas as pd\n\n"
        "rng = np.random.default_rng(0)\n"
        "shape = [(d, k) for d in (512, 1024, 2048, 4096, 8192) for k in (4.2, 8.0, 16.0, 32.0)]\n"
        "table = pd.DataFrame(shape, columns=['d_sae', 'l0']).assign(architecture='topk', component='resid', layer=3)\n"
        "table['sae_id'] = [f'resid_3_topk_{d}_l0_{k}' for d, k in shape]\n"
        "table['hook_name'] = 'blocks.3.hook_resid_post'\n"
        "for metric in ('r2_error_norm', 'r2_error_vector', 'fvu', 'fvu_nonlinear'):\n"
        "    value = 0.9 - 0.04 * np.log2(table['d_sae']) - 0.01 * table['l0'] ** 0.5 + rng.normal(0, 0.005, len(table))\n"
        "    table[metric], table[f'{metric}_low'], table[f'{metric}_high'] = value, value - 0.02, value + 0.02"
    ),
    new_code_cell(
        "METRICS = ['r2_error_norm', 'r2_error_vector', 'fvu', 'fvu_nonlinear']\n"
        "chapter.figure(dm.charts.width_l0_grid(table, METRICS), number='2', caption='Made-up values of $R^2$ over width and L0.',\n"
        "               alt='A heat map that falls from the upper left to the lower right.')"
    ),
    new_code_cell(
        "chapter.figure(dm.charts.metric_by_width(table, METRICS), number='2b', caption='The same values along the width.',\n"
        "               alt='Four falling lines with bands.')"
    ),
    new_code_cell(
        "width = np.array([512, 1024, 2048, 4096, 8192, 16384, 32768])\n"
        "fvu = 0.1 + 4 * width ** -0.5\n"
        "parts = {'absent': (0.1, fvu), 'linear': (0.07, np.full(7, 0.1)), 'nonlinear': (0.0, np.full(7, 0.07))}\n"
        "curve = pd.concat([pd.DataFrame({'d_sae': width, 'part': name, 'bottom': low, 'top': top, 'top_low': top - 0.01,\n"
        "                                 'top_high': top + 0.01, 'extrapolated': width > 8192}) for name, (low, top) in parts.items()])\n"
        "points = curve[curve['part'].isin(['absent', 'nonlinear']) & ~curve['extrapolated']]\n"
        "points = points.rename(columns={'top': 'value', 'top_low': 'low', 'top_high': 'high'})[['d_sae', 'part', 'value', 'low', 'high']]\n"
        "chapter.figure(dm.charts.breakdown(points, curve), number='1', caption='A made-up break-down.', alt='Three stacked areas.')"
    ),
    new_code_cell(
        "sizes = [512, 1024, 2048, 4096]\n"
        "pairs = pd.DataFrame([(a, b, 0.95 - 0.1 * (j - i)) for i, a in enumerate(sizes) for j, b in enumerate(sizes) if j > i],\n"
        "                     columns=['small', 'large', 'r2'])\n"
        "pairs = pairs.assign(r2_low=pairs['r2'] - 0.02, r2_high=pairs['r2'] + 0.02)\n"
        "chapter.figure(dm.charts.pair_matrix(pairs), number='4', caption='Pairs.', alt='A triangle of cells.')"
    ),
    new_code_cell(
        "names = ['x', 'sae', 'error', 'linear', 'nonlinear']\n"
        "frames = [table.assign(component=name, value=table['fvu'] + 0.1 * i) for i, name in enumerate(names)]\n"
        "values = pd.concat(frames).assign(low=lambda f: f['value'] - 0.01, high=lambda f: f['value'] + 0.01)\n"
        "chapter.figure(dm.charts.violins(values, names), number='6', caption='Violins.', alt='Five violins.')"
    ),
    new_code_cell(
        f"hostile = {HOSTILE!r}\n"
        "words = (hostile * 20)[:n_tokens]\n"
        "strip = pd.concat([pd.DataFrame({'index': range(n_tokens), 'token': words, 'sae': f'width {d}',\n"
        "                                 'error_norm2': rng.gamma(2, 1, n_tokens)}) for d in (512, 8192)])\n"
        "chapter.figure(dm.charts.token_lines(strip), number='5', caption='Tokens such as ' + hostile[0], alt='Two jagged lines.')"
    ),
    new_code_cell(
        "contexts = [hostile, ['plain', ' words', '\\n', ' here'] * 30]\n"
        "n = sum(map(len, contexts))\n"
        "values = {f'width {d}': {'error': rng.gamma(2, 1, n), 'linear': rng.gamma(2, 1, n)} for d in (512, 2048, 8192)}\n"
        "dm.widgets.TokenStrip(contexts, values)"
    ),
    new_code_cell(
        "import ipywidgets as w\n\n"
        "slider, echo = w.IntSlider(value=3, min=0, max=10, description='linked'), w.IntText()\n"
        "w.jslink((slider, 'value'), (echo, 'value'))\n"
        "w.VBox([slider, echo, w.Text(value=hostile[0]), w.Dropdown(options=hostile)])"
    ),
    new_code_cell("dm.display.show_table(pd.DataFrame({'token': hostile, 'error': rng.gamma(2, 1, len(hostile))}), 'Hostile tokens')"),
    new_code_cell(
        "chapter.record_table(table, METRICS[:2], figure='2', paper={'r2_error_norm': 's4.1.r2_error_norm'})\n"
        "chapter.record('r2_error_vector', 0.41, figure='2', paper_value='s4.2.r2_error_vector')\n"
        "chapter.compare()\nchapter.download()"
    ),
]


def write_notebook(path: Path) -> None:
    """Write the demonstration notebook."""
    cells = [nbformat.from_dict(cell | {"id": f"cell-{index}"}) for index, cell in enumerate(CELLS)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)


def make_checkout(root: Path) -> Layout:
    """Lay out a checkout that holds this book's configuration, extension and style, and one chapter."""
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    (root / "book/intro.md").write_text("# A small book\n\nInline mathematics: $x$. Cited: {cite}`engels2025decomposing`.\n")
    (root / "book/references.md").write_text("# References\n\n```{bibliography}\n```\n")
    toc = "format: jb-book\nroot: intro\nparts:\n- caption: Part\n  chapters:\n  - file: notebooks/demo\n  - file: references\n"
    (root / "book/_toc.yml").write_text(toc)
    shutil.copy(ROOT / "_config.yml", root / "_config.yml")
    shutil.copy(ROOT / "requirements.lock", root / "requirements.lock")
    (root / "src").symlink_to(ROOT / "src")
    write_notebook(root / "notebooks/demo.ipynb")
    return Layout(root)
