"""Repairs on planted errors: what each can remove it removes exactly, what it cannot it leaves; searches, prices, choices and losses."""

from __future__ import annotations

import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from dm_utils.base.errors import ParameterError
from dm_utils.chapters.repairs import closed_form, experiment, measuring, search
from dm_utils.chapters.repairs import patient as repairs_patient
from dm_utils.chapters.repairs.closed_form import Coded
from dm_utils.chapters.repairs.patient import UNREPAIRED, Patient, first_contexts, larger
from dm_utils.chapters.repairs.prices import Price, name, readable
from dm_utils.engine.splice import Spliced
from dm_utils.maths.pursuit import SparseCodes, gradient_pursuit
from dm_utils.maths.regression import CHUNK, Design
from dm_utils.maths.resampling import Split

N, D, K, CONTEXTS = 6000, 16, 3, 40
SMALL = 1e-9  # of the variance of x: what rounding of float32 leaves, squared, with room


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def split():
    return Split.random(torch.arange(N) * CONTEXTS // N, seed=1, by="context")


@pytest.fixture(scope="module")
def directions():
    return torch.linalg.qr(normal(D, D, seed=3))[0]


def sae_with(dictionary, directions, bias=1.0):
    """A TopK SAE that encodes by orthonormal directions and decodes by any dictionary."""
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=D, k=K, apply_b_dec_to_input=False, rescale_acts_by_decoder_norm=False))
    sae.W_enc.data, sae.W_dec.data = directions.T.contiguous(), dictionary
    sae.b_dec.data = torch.full((D,), bias)
    sae.b_enc.data = -sae.b_dec.data @ sae.W_enc.data
    return sae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def sparse_x(directions):
    """Tokens that are K of the directions, with positive weights, and the bias: an SAE of these directions has no error."""
    chosen = torch.rand(N, D, generator=torch.Generator().manual_seed(7)).topk(K, dim=1).indices
    z = torch.zeros(N, D).scatter(1, chosen, 1 + torch.rand(N, K, generator=torch.Generator().manual_seed(8)))
    return z @ directions + 1


def left(design, reconstruct):
    """FVU and FVU_nonlinear of a reconstruction."""
    sums = measuring.part_sums(design, reconstruct, "test")
    found = measuring.parts(measuring.x_sums(design), sums, sums, 20, 0)
    return found["fvu"].value, found["fvu_nonlinear"].value


def scaled(coded, fits):
    return lambda rows, x: closed_form.weighted(
        coded.codes(rows, x),
        coded.values(coded.codes(rows, x)) * fits.scale[coded.codes(rows, x).indices],
        coded.sae.W_dec,
        coded.sae.b_dec,
    )


def refitted(coded, fits):
    return lambda rows, x: closed_form.weighted(
        coded.codes(rows, x), coded.values(coded.codes(rows, x)), fits.decoder, fits.bias
    )


def test_a_decoder_of_half_the_length_is_repaired_by_rescaling(sparse_x, directions, split) -> None:
    coded = Coded(sae_with(0.5 * directions, directions), Design(sparse_x, split))
    fits = closed_form.fit(coded)
    torch.testing.assert_close(fits.scale, torch.full((D,), 2.0), atol=1e-4, rtol=0)
    assert left(coded.design, coded.reconstruct)[0] > 0.2
    assert left(coded.design, scaled(coded, fits))[0] < SMALL


def test_each_latent_gets_its_own_factor(sparse_x, directions, split) -> None:
    lengths = torch.linspace(0.5, 2, D)
    coded = Coded(sae_with(lengths[:, None] * directions, directions), Design(sparse_x, split))
    torch.testing.assert_close(closed_form.fit(coded).scale, 1 / lengths, atol=1e-4, rtol=0)


def test_turned_directions_are_refitted_and_not_rescaled(sparse_x, directions, split) -> None:
    turned = directions + 0.3 * normal(D, D, seed=5)
    coded = Coded(sae_with(turned, directions, bias=1.0), Design(sparse_x, split))
    fits = closed_form.fit(coded)
    before = left(coded.design, coded.reconstruct)[0]
    assert left(coded.design, refitted(coded, fits))[0] < SMALL
    assert left(coded.design, scaled(coded, fits))[0] > 0.1 * before


def test_an_error_that_is_linear_is_removed_by_either_map(sparse_x, directions, split) -> None:
    """Codes turned by one map: Sae(x) is an affine map of x, and x one of Sae(x)."""
    turned = directions @ (torch.eye(D) + 0.3 * normal(D, D, seed=6) / D**0.5)
    coded = Coded(sae_with(turned, directions), Design(sparse_x, split))
    fits, sae = closed_form.fit(coded), coded.reconstruct
    fvu, nonlinear = left(coded.design, sae)
    assert fvu > 0.01 and nonlinear < SMALL
    assert left(coded.design, lambda rows, x: sae(rows, x) + fits.of_x.full(x))[0] < SMALL
    assert left(coded.design, lambda rows, x: sae(rows, x) + fits.of_sae.full(sae(rows, x)))[0] < SMALL


@pytest.fixture(scope="module")
def dense(directions, split):
    """An SAE on Gaussian tokens, of which it reconstructs the K largest: its error has both parts."""
    x = normal(N, D, seed=11) @ normal(D, D, seed=12) + 1
    return Coded(sae_with(directions, directions), Design(x, split))


@pytest.mark.parametrize("rank", [1, 5, D])
def test_a_channel_of_any_rank_leaves_the_nonlinear_error(dense, rank) -> None:
    added = closed_form.fit(dense).of_x.of_rank(rank)
    before = left(dense.design, dense.reconstruct)
    after = left(dense.design, lambda rows, x: dense.reconstruct(rows, x) + added(x))
    assert after[1] == pytest.approx(before[1], rel=1e-5)
    assert after[0] < before[0]
    if rank == D:
        assert after[0] == pytest.approx(after[1], rel=0.01)


def test_a_map_behind_the_sae_multiplies_the_nonlinear_error(dense) -> None:
    """n' = n (I + M), token by token."""
    design, added = dense.design, closed_form.fit(dense).of_sae.full
    out = dense.reconstruct(slice(0, N), design.x)
    mapped = out + added(out)
    own, other = (design.fit_map(lambda rows, _, v=values: v[rows]) for values in (out, mapped))
    n, after = own(design.x) - out, other(design.x) - mapped
    torch.testing.assert_close(after, n + n @ added.coef.float(), atol=1e-3, rtol=0)


def rounding(dense) -> float:
    """What sums of float32 products over a chunk leave uncertain of a coefficient; the smallest variance of x divides them."""
    design = dense.design
    variances, targets = torch.linalg.eigvalsh(design.x.double().T.cov()), dense.reconstruct(slice(None), design.x)
    chunk = 2**-24 * (CHUNK / design.n_fit) ** 0.5 * float(variances[-1].sqrt() * targets.std(0).max() / variances[0])
    return D**0.5 * chunk


def test_fits_that_are_known_are_those_that_would_be_found(dense) -> None:
    design, fits, atol = dense.design, closed_form.fit(dense), rounding(dense)
    own, added = design.fit_map(dense.reconstruct), fits.of_x.of_rank(3)
    found = design.fit_map(lambda rows, x: dense.reconstruct(rows, x) + added(x))
    torch.testing.assert_close(closed_form.beside(own, added).coef, found.coef, atol=atol, rtol=0)
    found = design.fit_map(lambda rows, x: dense.reconstruct(rows, x) + fits.of_sae.full(dense.reconstruct(rows, x)))
    known = closed_form.through(own, fits.of_sae.full)
    torch.testing.assert_close(known.coef, found.coef, atol=atol, rtol=0)
    torch.testing.assert_close(known.intercept, found.intercept, atol=1e-4, rtol=0)


def test_maps_of_every_rank_are_those_of_reduced_rank_regression(dense) -> None:
    from dm_utils.maths.reduced_rank import ranked_map

    design, found = dense.design, closed_form.fit(dense).of_x
    known = ranked_map(design, lambda rows, x: x - dense.reconstruct(rows, x))
    for rank in (0, 4, D):
        one, other, atol = found.of_rank(rank), known.of_rank(rank), rounding(dense)
        torch.testing.assert_close(one.coef, other.coef, atol=atol, rtol=0)
        torch.testing.assert_close(one.intercept, other.intercept, atol=D**0.5 * atol, rtol=0)  # of a mean of x about 1


def test_a_latent_that_never_fires_keeps_its_direction(sparse_x, directions, split) -> None:
    sae = sae_with(directions.clone(), directions)
    sae.b_enc.data[2] = -100.0
    fits = closed_form.fit(Coded(sae, Design(sparse_x, split)))
    assert fits.scale[2] == 1
    torch.testing.assert_close(fits.decoder[2], directions[2])


def test_half_the_error_removed_is_three_quarters_of_its_square(dense) -> None:
    design = dense.design
    before = measuring.part_sums(design, dense.reconstruct, "before")
    after = measuring.part_sums(design, lambda rows, x: 0.5 * (x + dense.reconstruct(rows, x)), "after")
    found = measuring.parts(measuring.x_sums(design), before, after, 50, 0)
    for part in ("removed", "removed_linear", "removed_nonlinear"):
        assert found[part].value == pytest.approx(0.75, rel=1e-4)
        assert found[part].low == pytest.approx(0.75, rel=1e-4)
    assert found["fvu"].value == pytest.approx(found["fvu_linear"].value + found["fvu_nonlinear"].value)


def test_what_the_loss_gains_is_counted_from_what_the_sae_costs() -> None:
    ce = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 2.0, 2.0], [1.5, 1.5, 1.25, 1.25]])
    kl = torch.tensor([[0.0] * 4, [2.0] * 4, [0.5, 0.5, 1.0, 1.0]])
    spliced = Spliced(("original", "sae", "repaired"), ce, kl, torch.tensor([0, 0, 5, 5]), torch.arange(4), 0.0)
    found = measuring.downstream(measuring.losses(spliced), "sae", "repaired", 50, 0)
    assert found["ce"].value == pytest.approx(0.375)
    assert found["kl"].value == pytest.approx(0.75)
    assert found["ce_removed"].value == pytest.approx(0.75)


# --- searches ----------------------------------------------------------------------------------------------


def test_orthogonal_pursuit_recovers_a_code_on_an_orthonormal_dictionary(sparse_x, directions) -> None:
    found = search.orthogonal_pursuit(sparse_x[:50] - 1, 2 * directions, torch.full((50,), K))
    torch.testing.assert_close(found.decode(2 * directions), sparse_x[:50] - 1, atol=1e-4, rtol=0)
    assert (found.l0 == K).all()


def test_its_weights_are_the_best_of_its_atoms_and_no_worse_than_gradient_pursuits() -> None:
    x, atoms = normal(200, D, seed=20), normal(40, D, seed=21)
    l0 = torch.randint(1, 5, (200,), generator=torch.Generator().manual_seed(0))
    found = search.orthogonal_pursuit(x, atoms, l0)
    assert (found.l0 <= l0).all() and (found.weights >= 0).all()
    slope = torch.einsum("tkd,td->tk", atoms[found.indices], x - found.decode(atoms))
    assert slope[found.weights > 0].abs().max() < 0.02  # orthogonal to every atom in use
    errors = [(x - codes.decode(atoms)).square().sum() for codes in (found, gradient_pursuit(x, atoms, l0))]
    assert errors[0] <= errors[1]


def test_a_token_without_a_positive_product_has_no_atoms() -> None:
    atoms = torch.eye(D)
    found = search.orthogonal_pursuit(-torch.ones(3, D), atoms, torch.full((3,), 2))
    assert isinstance(found, SparseCodes) and not found.weights.any()


# --- a study -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(study):
    return experiment.table([Patient(study, study.sae(width=512), 24, 16, 3)]).set_index("repair")


def test_the_rows_of_a_study_agree_with_the_rest_of_the_book(study, rows) -> None:
    measured = study.measure([study.sae(width=512)]).iloc[0]
    for metric in ("fvu", "fvu_nonlinear"):
        assert rows.loc[UNREPAIRED, metric] == pytest.approx(measured[metric], rel=1e-3)
    assert rows.loc["channel_full", "fvu"] == pytest.approx(measured["fvu_nonlinear"], rel=0.02)
    wider = study.measure([study.sae(width=1024)]).iloc[0]
    assert rows.loc["wider", "fvu"] == pytest.approx(wider["fvu"], rel=1e-3)
    curve = Patient(study, study.sae(width=512), 24, 16, 3).curve().set_index("rank")
    assert curve.loc[24, "fvu"] == pytest.approx(rows.loc["channel", "fvu"], rel=1e-3)


def test_every_repair_has_its_parts_its_loss_and_its_price(rows) -> None:
    expected = {"rescaled", "decoder", "sae_affine", "channel", "channel_full", "pursuit", "exact_pursuit", "wider"}
    assert expected | {"denser", "wider_denser"} <= set(rows.index)
    assert rows["fvu"].to_numpy() == pytest.approx((rows["fvu_linear"] + rows["fvu_nonlinear"]).to_numpy())
    assert rows[["ce", "ce_removed", "parameters", "flops"]].notna().all().all()
    assert rows.loc["channel", ["removed_nonlinear_low", "removed_nonlinear_high"]].abs().max() < 1e-4


def test_what_is_kept_is_read_again(study, monkeypatch) -> None:
    patient = Patient(study, study.sae(width=512), 24, 16, 3)
    before = patient.left()
    monkeypatch.setattr(repairs_patient, "part_sums", None)  # nothing is computed again
    again = Patient(study, study.sae(width=512), 24, 16, 3).left()
    assert list(again) == list(before)
    torch.testing.assert_close(again["decoder"]["error2"], before["decoder"]["error2"])


def test_saes_of_three_widths_unless_said_otherwise(study) -> None:
    found = experiment.chosen(study, None, None, None)
    assert [ref.d_sae for ref in found] == sorted(ref.d_sae for ref in found)
    assert len(found) == 3 and found[-1].d_sae == study.profile.width and len({ref.l0 for ref in found}) == 1
    more = larger(study, found[0])
    assert {key: (ref.d_sae / found[0].d_sae, ref.l0 / found[0].l0) for key, ref in more.items()} == {
        "wider": (2, 1),
        "denser": (1, 2),
        "wider_denser": (2, 2),
    }
    with pytest.raises(ParameterError, match="widths"):
        experiment.chosen(study, [300], None, None)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"widths": []}, "widths"),
        ({"widths": 512}, "widths"),
        ({"widths": [512, 512]}, "widths"),
        ({"widths": [0]}, "widths"),
        ({"rank": 0}, "rank"),
        ({"search_contexts": 2}, "search_contexts"),
        ({"spliced_contexts": True}, "spliced_contexts"),
    ],
)
def test_sizes_that_cannot_be_used_are_refused_by_name(given, named) -> None:
    sizes = {"widths": None, "rank": 24, "search_contexts": 16, "spliced_contexts": 4} | given
    with pytest.raises(ParameterError, match=named):
        experiment.check_sizes(**sizes)


def test_too_few_contexts_to_search_on_are_refused_by_name(dense) -> None:
    with pytest.raises(ParameterError, match="search_contexts = 1"):
        first_contexts(dense.design, CONTEXTS, 1)


# --- prices ------------------------------------------------------------------------------------------------


def test_prices_count_what_is_added() -> None:
    price = Price(d=128, d_sae=512, l0=4, rank=24)
    free = {"parameters": 0, "flops": 0.0, "latents": 0.0, "dense": 0}
    assert price.of("decoder") == price.of("sae_affine") == price.of("adapter") == free
    assert price.of("channel") == {"parameters": 6144, "flops": 12288.0, "latents": 0.0, "dense": 24}
    assert price.of("channel_full")["parameters"] == 128**2
    assert price.of("wider") == {"parameters": 512 * 257, "flops": 2.0 * 128 * 512, "latents": 0.0, "dense": 0}
    assert price.of("denser") == {"parameters": 0, "flops": 1024.0, "latents": 4, "dense": 0}
    assert price.of("boost")["parameters"] == 512 * 257 + 128
    assert price.of("pursuit")["flops"] == 3 * 2.0 * 128 * 512


def test_only_dense_numbers_cannot_be_read() -> None:
    assert readable("channel").startswith("no") and readable("matryoshka_channel").startswith("no")
    assert {readable(repair) for repair in ("decoder", "boost", "kl", "pursuit")} == {"yes"}
    assert name("sae_rank_4") == "map of Sae(x), rank 4"


def test_fits_do_not_depend_on_the_blocks_that_the_tokens_come_in(dense) -> None:
    """Nine blocks or one: every moment is a sum over all of them."""
    blocks = closed_form.fit(Coded(dense.sae, Design(dense.design.x, dense.design.split, block=700)))
    whole = closed_form.fit(dense)
    for part in ("scale", "decoder", "bias"):
        torch.testing.assert_close(getattr(blocks, part), getattr(whole, part), atol=1e-4, rtol=1e-4)
    for part in ("of_x", "of_sae"):
        one, other = (getattr(fits, part).of_rank(4) for fits in (blocks, whole))
        torch.testing.assert_close(one.coef, other.coef, atol=1e-4, rtol=1e-4)
