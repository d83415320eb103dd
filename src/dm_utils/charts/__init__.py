"""What readers see drawn: one theme, one colour per meaning, intervals always drawn. Charts know tables only.

A builder takes a table as :meth:`dm_utils.Study.measure` returns it (columns ``M``, ``M_low``, ``M_high`` for a metric ``M``) and
returns an Altair chart whose parameters stay live in a static page.
"""

from dm_utils.charts.areas import breakdown, measured_heights
from dm_utils.charts.dots import dots, exact_and_simulated
from dm_utils.charts.marks import SAE_COLUMNS, Slide, chooser, sae_tooltip, texts, tidy, width_axis
from dm_utils.charts.metrics import interpolate, layer_axis, lines, metric_by_layer, metric_by_width, width_l0_grid
from dm_utils.charts.theme import COLORS, INK, render, theme
from dm_utils.charts.tokens import pair_matrix, token_lines
from dm_utils.charts.violins import violins

__all__ = [
    "COLORS",
    "INK",
    "SAE_COLUMNS",
    "Slide",
    "breakdown",
    "chooser",
    "dots",
    "exact_and_simulated",
    "interpolate",
    "layer_axis",
    "lines",
    "measured_heights",
    "metric_by_layer",
    "metric_by_width",
    "pair_matrix",
    "render",
    "sae_tooltip",
    "texts",
    "theme",
    "tidy",
    "token_lines",
    "violins",
    "width_axis",
    "width_l0_grid",
]
