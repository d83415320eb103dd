"""Specification of Section 6.1 on real SAEs: pursued and refitted encoders, paired changes, controls, Figure 1's fourth part."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import vl_convert

import dm_utils as dm
from dm_utils.chapters.s06_1_pursuit import charts, controls, encoders
from dm_utils.chapters.s06_1_pursuit import experiment as pursuit_study
from dm_utils.engine.breakdown import fit_widths
from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.maths.codes import Codes
from dm_utils.maths.encoding import encode
from dm_utils.maths.pursuit import SparseCodes
from dm_utils.maths.regression import Design
from dm_utils.maths.resampling import Split
from dm_utils.world import saes


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    profile = dm.load_profile("lab", n_contexts=12, n_bootstrap=100)
    return Study(profile, Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def refs(study):
    return [study.sae(width=512), study.sae(width=1024)]


def architectures(study):
    return {ref.architecture: study.load_sae(ref) for ref in study.saes(width=2048)}


def test_padded_codes_decode_to_the_saes_own_reconstruction(study):
    x = study.site().x[:300]
    for sae in architectures(study).values():
        codes = encode(sae, x)
        padded = encoders.padded(sae, codes)
        torch.testing.assert_close(padded.l0, codes.l0)
        torch.testing.assert_close(encoders.decoded(sae, x, padded), saes.reconstruct(sae, x), rtol=1e-4, atol=1e-4)


def test_pursuit_uses_each_tokens_own_l0_and_explains_more(study):
    x = study.site().x[:300]
    for sae in architectures(study).values():
        codes, out = encoders.pursue(sae, x)
        assert (codes.l0 <= encode(sae, x).l0).all()
        before, after = ((x - r).square().sum(1) for r in (saes.reconstruct(sae, x), out))
        assert after.sum() < before.sum()


def test_refitting_keeps_the_latents_and_lowers_every_tokens_error(study):
    x = study.site().x[:300]
    for sae in architectures(study).values():
        codes, out = encoders.refit(sae, x)
        assert encoders.shared_support(codes, encode(sae, x), 2048).min() == 1
        before, after = ((x - r).square().sum(1) for r in (saes.reconstruct(sae, x), out))
        assert (after <= before * (1 + 1e-4)).all()


def test_an_sae_that_normalises_its_input_is_pursued_in_its_own_space(study):
    """Layer normalisation makes the reconstruction of a scaled and shifted token scale and shift with it."""
    sae = study.load_sae(study.sae(width=512))
    x = study.site().x[:50]
    mean, size = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    plain = encoders.pursue(sae, (x - mean) / size, 8)[1] * size + mean
    held = {}

    def fn_in(value):
        held["mean"], held["size"] = value.mean(1, keepdim=True), value.std(1, keepdim=True)
        return (value - held["mean"]) / held["size"]

    sae.run_time_activation_norm_fn_in = fn_in
    sae.run_time_activation_norm_fn_out = lambda value: value * held["size"] + held["mean"]
    torch.testing.assert_close(encoders.pursue(sae, x, 8)[1], plain, rtol=1e-4, atol=1e-4)


def test_shared_support_counts_latents_of_the_same_token():
    pursued = SparseCodes(
        torch.tensor([[3, 5, 0], [7, 1, 2], [0, 0, 0]]), torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 0, 0]])
    )
    encoded = Codes(torch.tensor([5, 0, 7, 2, 9, 4]), torch.ones(6), torch.tensor([0, 2, 5]))
    assert encoders.shared_support(pursued, encoded, 16).tolist() == pytest.approx([1 / 2, 2 / 3, 1])


def test_changes_are_the_difference_of_the_two_tables(study, refs):
    own, other = study.measure(refs), pursuit_study.measure(study, refs)
    found = pursuit_study.changes(study, refs)
    for name in ("fvu", "fvu_nonlinear"):
        drop = (own[name] - other[name]).to_numpy()
        np.testing.assert_allclose(found[f"{name}_drop"], drop, atol=1e-5)
        np.testing.assert_allclose(found[f"{name}_drop_relative"], drop / own[name], atol=1e-4)
    assert (found["fvu_drop_low"] > 0).all()
    share = 1 - found["fvu_nonlinear_drop"] / found["fvu_drop"]
    np.testing.assert_allclose(found["linear_drop_share"], share, atol=1e-9)


def test_results_are_kept(study, refs, monkeypatch):
    first = pursuit_study.measure(study, refs)
    monkeypatch.setattr(encoders, "pursue", lambda *_: pytest.fail("pursued again"))
    assert pursuit_study.measure(study, refs).equals(first)


def test_a_gaussian_twin_has_the_mean_and_covariance():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 3, generator=rng) @ torch.tensor([[1.0, 2, 0], [0, 1, 1], [1, 0, 0]]) + 5
    twin = controls.gaussian_twin(x, 200_000, rng)
    torch.testing.assert_close(twin.mean(0), x.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(twin.T), torch.cov(x.T), atol=0.02, rtol=0)


def test_fvu_of_the_mean_is_one_and_of_x_zero():
    x, context = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)), torch.arange(1000) // 50
    assert controls.fvu_of(x, x.mean(0).expand_as(x), context).value == pytest.approx(1, abs=1e-6)
    assert controls.fvu_of(x, x, context).value == 0
    assert controls.fvu_of(x, 0.5 * x + 0.5 * x.mean(0), context).value == pytest.approx(0.25, abs=1e-6)


def test_a_trained_dictionary_beats_a_random_one_and_the_encoder_loses_to_pursuit(study, refs):
    fvu = controls.dictionary_controls(study, refs[0], n_tokens=500).set_index("case")["fvu"]
    assert fvu["trained"] < fvu["encoder"]
    assert fvu["trained"] < fvu["random"] < 1


WIDTHS = [512, 1024, 2048, 4096]


def planted_norms(shares: list[float]) -> tuple[Design, torch.Tensor, torch.Tensor]:
    """A design of 4,000 tokens, for each of `WIDTHS` a mean squared norm as a share of that of x [width, 1], and their noise [token]."""
    rng, n_token = torch.Generator().manual_seed(0), 4000
    x = torch.randn(n_token, 6, generator=rng)
    design = Design(x, Split.random(torch.arange(n_token) // 100))
    heights = torch.tensor(shares)[:, None] * x.square().sum(1).mean()
    return design, heights, 0.5 + torch.rand(n_token, generator=rng)


def test_the_four_parts_of_figure_1_lie_on_each_other():
    design, heights, noise = planted_norms([0.30, 0.25, 0.22, 0.20])
    before = fit_widths(design, WIDTHS, heights * noise, 0.5 * heights[-1:] * noise.expand(4, -1), 100)
    after = fit_widths(design, WIDTHS, 0.8 * heights * noise, 0.3 * heights[-1:] * noise.expand(4, -1), 100)
    curves = pursuit_study.breakdown_with_encoder(before, after, WIDTHS).set_index(["part", "d_sae"])
    for lower, upper in (("nonlinear", "encoder"), ("encoder", "linear"), ("linear", "absent")):
        np.testing.assert_allclose(curves.loc[lower]["top"], curves.loc[upper]["bottom"], atol=1e-9)
    encoder = curves.loc["encoder"]
    np.testing.assert_allclose((encoder["top"] - encoder["bottom"]) / encoder["top"], 0.4, atol=1e-3)
    worse = pursuit_study.breakdown_with_encoder(after, before, WIDTHS).set_index("part").loc["encoder"]
    np.testing.assert_allclose(worse["top"], worse["bottom"])


def test_a_token_is_followed_atom_by_atom_under_both_encoders(study, refs):
    """What is left never rises under pursuit; with all its latents the encoder leaves its own error; shared latents are told twice."""
    paths = pursuit_study.token_paths(study, refs[0], [5, 400], atoms=20)
    site, sae = study.site(), study.load_sae(refs[0])
    x = site.x[[5, 400]]
    share = (x - saes.reconstruct(sae, x)).square().sum(1) / (x - site.design.mean.to(x)).square().sum(1)
    for (_, token), own_share, l0 in zip(paths.groupby("token", sort=False), share, encode(sae, x).l0, strict=True):
        own, pursued = (token[token["encoder"] == name] for name in (pursuit_study.OWN, pursuit_study.PURSUIT))
        assert pursued["left"].is_monotonic_decreasing
        assert own["left"].notna().sum() == l0 + 1 < 21
        assert own["left"].dropna().iloc[-1] == pytest.approx(float(own_share), rel=1e-4)
        for ours, theirs in zip(own.to_dict("records"), pursued.to_dict("records"), strict=True):
            assert len(theirs["latent"]) <= theirs["atoms"] and len(ours["latent"]) == min(ours["atoms"], int(l0))
            assert sum(ours["both"]) == sum(theirs["both"]) == len({*ours["latent"]} & {*theirs["latent"]})
        units = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
        last = pursued.iloc[-1]
        sizes = torch.tensor(last["size"])
        again = sizes @ units[last["latent"]] + sae.b_dec.detach()
        row = 0 if token["token"].iloc[0].startswith("5:") else 1
        left = (x[row] - again).square().sum() / (x[row] - site.design.mean.to(x)).square().sum()
        assert float(left) == pytest.approx(last["left"], rel=1e-3)


def test_a_latents_words_are_the_tokens_that_it_raises_most(study, refs):
    paths = pursuit_study.token_paths(study, refs[0], [5], atoms=2)
    words = pursuit_study.latent_words(study, refs[0], paths, n=1)
    latent = paths["latent"].iloc[-1][0]
    logits = study.model.original_model.lm_head(
        study.model.original_model.model.norm(study.load_sae(refs[0]).W_dec.detach()[latent][None, None])
    )
    assert words[latent] == study.token_text(logits[0, 0].argmax()[None])[0]
    assert words.keys() == {one for some in paths["latent"] for one in some}


def test_the_picture_of_a_token_starts_where_the_encoders_differ_as_usual():
    rows = [
        {
            "token": token,
            "encoder": name,
            "atoms": k,
            "left": left,
            "latent": [7][:k],
            "size": [2.0][:k],
            "both": [True][:k],
        }
        for token, gain in (("much", 0.5), ("some", 0.2), ("none", 0.0))
        for k in (0, 1)
        for name, left in ((pursuit_study.OWN, 0.6), (pursuit_study.PURSUIT, 0.6 - gain))
    ]
    chart = charts.token_steps(pd.DataFrame(rows), {7: "</script>"}, start=1)
    spec = json.loads(chart.to_json())
    assert [one["value"] for one in spec["params"] if one["name"] == "token"] == ["some"]
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", vl_convert.vegalite_to_svg(spec, vl_version="6.4"))
    assert {"60.0%", "40.0%", "1 latents, 1 of them chosen by both", "&lt;/script&gt;"} <= set(drawn)


def test_controls_are_of_the_first_held_out_tokens(study, refs):
    """What each case reconstructs, by hand: x by its encoder and by pursuit, and the interval over the tokens' contexts."""
    found = controls.dictionary_controls(study, refs[0], n_tokens=300).set_index("case")
    assert set(found.index) == {"trained", "random", "twin", "encoder"}
    assert set(found["sae_id"]) == {refs[0].id} and set(found["d_sae"]) == {512}
    site, sae, p = study.site(), study.load_sae(refs[0]), study.profile
    rows = (~site.split.fit).nonzero()[:300, 0]
    x, context = site.x[rows], site.context[rows]
    for case, out in (("encoder", saes.reconstruct(sae, x)), ("trained", encoders.pursue(sae, x)[1])):
        known = controls.fvu_of(x, out, context, p.n_bootstrap, p.seed)
        assert found.loc[case, ["fvu", "fvu_low", "fvu_high"]].tolist() == pytest.approx(
            [known.value, known.low, known.high], rel=1e-5
        )
    assert found.loc["twin", "fvu"] > found.loc["trained", "fvu"]


def test_a_row_says_how_much_of_its_latents_the_encoder_shares(study, refs):
    site, sae = study.site(), study.load_sae(refs[0])
    codes, _ = encoders.pursue(sae, site.x)
    shared = float(encoders.shared_support(codes, encode(sae, site.x), 512).mean())
    row = pursuit_study.measure(study, refs[:1]).iloc[0]
    assert row["shared_support"] == pytest.approx(shared, rel=1e-5) and row["encoder"] == "gradient pursuit"
    refitted = pursuit_study.measure(study, refs[:1], "refit").iloc[0]
    assert refitted["shared_support"] == 1 and refitted["encoder"] == "the encoder's latents, best weights"
    assert row["fvu"] < refitted["fvu"] < study.measure(refs[:1])["fvu"].item()
    assert row["fvu_low"] < row["fvu"] < row["fvu_high"]


def test_paired_norms_are_of_the_same_saes_under_both_encoders(study, refs):
    norms = pursuit_study.paired_norms(study, refs)
    assert norms.widths == [512, 1024]
    for i, ref in enumerate(refs):
        before, after = study.token_scalars(ref), encoders.encoded_result(study, ref)[1]
        for name in ("error_norm2", "linear_norm2", "nonlinear_norm2"):
            assert (norms.own[name][i].numpy() == before[name]).all()
            assert (norms.other[name][i].numpy() == after[name]).all()


def test_the_fourth_part_lies_below_falling_curves_too():
    design, heights, noise = planted_norms([0.40, 0.30, 0.24, 0.20])
    before, after = (fit_widths(design, WIDTHS, heights * noise, s * heights * noise, 100) for s in (0.5, 0.3))
    curves = pursuit_study.breakdown_with_encoder(before, after, WIDTHS, falling=True).set_index("part")
    encoder, nonlinear = curves.loc["encoder"], curves.loc["nonlinear"]
    np.testing.assert_allclose(nonlinear["top"], encoder["bottom"])
    np.testing.assert_allclose(nonlinear["top"].to_numpy() / encoder["top"].to_numpy(), 0.6, atol=1e-2)
    assert (nonlinear["top_low"] < nonlinear["top"]).all() and (nonlinear["top"] < nonlinear["top_high"]).all()
    assert nonlinear["top"].is_monotonic_decreasing and (nonlinear["bottom"] == 0).all()


def test_attention_outputs_have_no_words(study, refs):
    paths = pursuit_study.token_paths(study, refs[0], [5], atoms=2)
    from dataclasses import replace

    words = pursuit_study.latent_words(study, replace(refs[0], component="att"), paths)
    assert words and set(words.values()) == {""}
