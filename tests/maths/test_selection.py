"""Pursuit's selection by a screen is the selection from every inner product."""

import logging

import pytest
import torch

from dm_utils.maths import certified, selection
from dm_utils.maths.products import accumulates
from dm_utils.maths.selection import Selector

SATURATES = not accumulates(torch.int8, torch.device("cpu"), 96, 2048)
saturating = pytest.mark.skipif(
    SATURATES, reason="int8 products saturate on this processor: refused, see test_products"
)
SCREENS = [torch.bfloat16, pytest.param(torch.int8, marks=saturating)]


def residuals(seed: int, d: int = 96, n_atom: int = 2048, n_token: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals with a few atoms in them, and unit atoms that lean to one side."""
    rng = torch.Generator().manual_seed(seed)
    units = torch.nn.functional.normalize(torch.randn(n_atom, d, generator=rng) + 0.5, dim=1)
    active = torch.randint(n_atom, (n_token, 5), generator=rng)
    return units[active].sum(1) + 0.3 * torch.randn(n_token, d, generator=rng), units


@pytest.mark.parametrize("precision", SCREENS)
@pytest.mark.parametrize("seed", range(8))
def test_the_atom_is_the_one_of_every_inner_product(precision: torch.dtype, seed: int):
    r, units = residuals(seed)
    if seed % 2:
        r[:, 5] *= 1e3
    exact = r.double() @ units.double().T
    chosen = exact.topk(seed, dim=1).indices
    best, atom, own = Selector(units, precision).select(r, chosen)
    torch.testing.assert_close(own.double(), exact.gather(1, chosen), rtol=1e-5, atol=1e-5 * float(r.abs().max()))
    rest = exact.scatter(1, chosen, -torch.inf)
    limit = 100 * 2.0**-23 * r.norm(dim=1)
    assert ((rest.amax(1) - rest.gather(1, atom[:, None])[:, 0]) <= limit).all()
    assert ((best - rest.amax(1)).abs() <= limit).all()


@pytest.mark.parametrize("precision", SCREENS)
def test_screened_and_dense_choose_alike_except_at_counted_ties(precision: torch.dtype):
    r, units = residuals(0, n_token=4000)
    none = torch.zeros(len(r), 0, dtype=torch.int64)
    screened, dense = Selector(units, precision), Selector(units, None)
    differ = int((screened.select(r, none)[1] != dense.select(r, none)[1]).sum())
    assert differ <= screened.ties < 4


@pytest.mark.parametrize("precision", SCREENS)
def test_duplicate_atoms_tie_and_the_first_is_chosen(precision: torch.dtype):
    r, units = residuals(1)
    twice, none = Selector(torch.cat([units, units]), precision), torch.zeros(len(r), 0, dtype=torch.int64)
    atom = twice.select(r, none)[1]
    assert torch.equal(atom, (r.double() @ units.double().T).argmax(1))
    assert twice.ties == len(r)


@pytest.mark.parametrize("precision", SCREENS)
def test_where_no_inner_product_is_positive_nothing_is_chosen(precision: torch.dtype):
    units = torch.nn.functional.normalize(torch.rand(128, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    r = torch.cat([-units[:3], torch.zeros(1, 16)])
    best, atom, _ = Selector(units, precision).select(r, torch.zeros(4, 0, dtype=torch.int64))
    assert best[:3].tolist() == [-torch.inf] * 3 and float(best[3]) <= 0 and atom[:3].tolist() == [0, 0, 0]


def test_too_many_in_question_are_read_densely(monkeypatch: pytest.MonkeyPatch):
    listed, asked = (
        selection.listed_products,
        [],
    )  # which reads the first atom of each, then what a screen leaves in question
    monkeypatch.setattr(selection, "listed_products", lambda *given: asked.append(len(given[-1])) or listed(*given))
    units = torch.eye(512)[:, :256] + 1e-6
    r, none = torch.ones(4, 256), torch.zeros(4, 0, dtype=torch.int64)
    assert (Selector(units, torch.bfloat16).select(r, none)[1] < 256).all()
    assert asked == [len(r)]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.int8])
def test_where_products_do_not_accumulate_atoms_are_selected_densely(
    careless_product: None, caplog: pytest.LogCaptureFixture, precision: torch.dtype
):
    certified.say_once.cache_clear()
    r, units = residuals(3)
    none = torch.zeros(len(r), 0, dtype=torch.int64)
    found, dense = Selector(units, precision).select(r, none), Selector(units, None).select(r, none)
    assert all(torch.equal(a, b) for a, b in zip(found, dense, strict=True))
    assert "do not keep their partial sums here: atoms are selected by a dense product" in caplog.text


def test_few_residuals_and_float64_are_read_densely_and_a_size_is_timed_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "dm_utils")
    r, units = residuals(2, d=61, n_atom=1999, n_token=300)  # a size of which nothing is known yet
    none = torch.zeros(300, 0, dtype=torch.int64)
    Selector(units).select(r[:20], none[:20])
    Selector(units.double()).select(r.double(), none)
    assert "pursuit selects" not in caplog.text
    for _ in range(2):
        Selector(units).select(r, none)
    assert caplog.text.count("pursuit selects among 1999 atoms on cpu by") == 1
