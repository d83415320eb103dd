"""The one line that CONTRIBUTING names turns every regression into ridge, and the refits behind intervals with it."""

import re
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from dm_utils.maths import refit, regression
from dm_utils.maths.resampling import Split, r2_weighted

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def edited() -> dict:
    """The module of regressions after the edit that the page describes."""
    after, line = re.search(r"after `(correlation = )…` one line, `([^`]+)`", PAGE.read_text(encoding="utf-8")).groups()
    source = Path(regression.__file__).read_text(encoding="utf-8")
    changed, count = re.subn(rf"^( +){re.escape(after)}.*$", rf"\g<0>\n\1{line}", source, flags=re.M)
    assert count == 1
    names = {"__name__": regression.__name__}
    exec(compile(changed, "ridge.py", "exec"), names)
    return names


def test_one_line_makes_ridge_of_every_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7) + 3
    y = x @ torch.ones(6, dtype=torch.float64) + torch.randn(4000, generator=generator, dtype=torch.float64)
    split = Split.random(torch.arange(40).repeat_interleave(100), seed=0)
    ridge = edited()
    monkeypatch.setattr(refit, "factorise", ridge["factorise"])
    design = ridge["Design"](x, split)
    probe = design.probe(y[:, None], 200)[0]
    fit, length = split.fit, (x[split.fit] - x[split.fit].mean(0)).norm(dim=0)
    theirs = Ridge(alpha=0.1).fit((x[fit] / length).numpy(), y[fit].numpy())
    expected = theirs.predict((x / length).numpy())
    assert abs(probe.prediction.numpy() - expected).max() < 1e-9
    assert probe.r2.value == pytest.approx(r2_score(y[~fit], expected[~fit]), abs=1e-9)
    refitted = refit.Refitted(design, lambda rows, _: y[rows][:, None]).estimate(r2_weighted)
    assert refitted.value == pytest.approx(probe.r2.value, abs=1e-9)
