"""The verdicts and tables of "What repairs it", at their thresholds."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from dm_utils.base.errors import LoadError
from dm_utils.base.verdicts import DIFFERS, HOLDS, PARTLY, UNTESTABLE
from dm_utils.chapters.repairs import arrows, charts, findings, results
from dm_utils.chapters.repairs.prices import NAMES, Price
from dm_utils.lab import tables

D, HALF = 40, 0.001
PRICE = Price(D, 512, 4.0, 5)
SHARES = ("removed", "removed_linear", "removed_nonlinear", "ce", "ce_removed")


def estimates(**values):
    return {f"{k}{end}": v + s * HALF for k, v in values.items() for end, s in (("", 0), ("_low", -1), ("_high", 1))}


def row(repair, fvu=0.25, nonlinear=0.14, d_sae=512, trained=False, **more):
    """One repair of an SAE whose FVU is 0.3 and FVU nonlinear 0.15, intervals of ± 0.001."""
    found = {"sae_id": f"sae {d_sae}", "d_sae": d_sae, "l0": 4.0, "repair": repair, "trained": trained}
    found |= {"before_fvu": 0.3, "before_fvu_linear": 0.15, "before_fvu_nonlinear": 0.15} | PRICE.of(repair)
    shares = {"removed": 1 - fvu / 0.3, "removed_linear": 1 - (fvu - nonlinear) / 0.15}
    shares |= {"removed_nonlinear": 1 - nonlinear / 0.15, "ce": 0.5, "ce_removed": 0.4} | more
    return found | estimates(fvu=fvu, fvu_linear=fvu - nonlinear, fvu_nonlinear=nonlinear, **shares)


def table(free=0.29, wider=0.28, denser=0.2, search=0.14, widths=(512, 1024)):
    rows = []
    for width in widths:
        rows += [
            row("as it is", 0.3, 0.15, width),
            row("decoder", free, 0.15, width),
            row("channel", 0.24, 0.15, width),
        ]
        rows += [row("channel_full", 0.15, 0.15, width), row("pursuit", 0.27, search, width)]
        rows += [row("wider", wider, 0.15, width), row("denser", denser, 0.14, width)]
    return pd.DataFrame(rows)


def curves(recovered=(0.6, 0.6), fvu=(0.25, 0.25), widths=(512, 1024)):
    """A channel's curve that has at a quarter of the dimensions, rank 10, the values given; at rank 4 it leaves 0.28."""
    rows = []
    for width, share, left in zip(widths, recovered, fvu, strict=True):
        for rank, at, value in ((0, 0.0, 0.3), (4, 0.2, 0.28), (10, share, left), (D, 1.0, 0.15)):
            rows.append({"rank": rank, "d_sae": width} | estimates(recovered=at, fvu=value))
    return pd.DataFrame(rows)


def pair(with_channel=0.12, without=0.14):
    found = row("batchtopk_channel", 0.3, with_channel, trained=True)
    return pd.DataFrame([found | estimates(before_fvu=0.32, before_fvu_nonlinear=without)])


NONE = pd.DataFrame()
QUESTIONS = ("most", "free", "width", "latents", "trained", "nonlinear", "proposal", "architecture")


def verdicts(of=None, trained=NONE, by_rank=None):
    given = (table() if of is None else of, trained, curves() if by_rank is None else by_rank)
    return dict(zip(QUESTIONS, findings.claims(*given)["Verdict"], strict=True))


def test_where_everything_is_clear() -> None:
    found = verdicts(trained=pair())
    assert found == {
        "most": HOLDS,
        "free": HOLDS,
        "width": HOLDS,
        "latents": DIFFERS,
        "trained": HOLDS,
        "nonlinear": DIFFERS,
        "proposal": HOLDS,
        "architecture": HOLDS,
    }


@pytest.mark.parametrize(("share", "expected"), [(0.502, HOLDS), (0.5005, UNTESTABLE), (0.498, DIFFERS)])
def test_most_is_more_than_half_of_the_linear_error(share, expected) -> None:
    found = verdicts(by_rank=curves(recovered=(share, share)))
    assert found["most"] == found["proposal"] == expected


def test_a_rank_is_low_up_to_a_quarter_of_the_dimensions() -> None:
    assert findings.low_rank(curves()) == 10


@pytest.mark.parametrize(("free", "expected"), [(0.253, HOLDS), (0.251, UNTESTABLE), (0.247, DIFFERS)])
def test_the_proposal_is_right_only_if_nothing_free_does_as_well(free, expected) -> None:
    found = verdicts(table(free=free))
    assert found["free"] == found["proposal"] == expected
    assert found["most"] == HOLDS


def test_the_proposal_may_be_right_for_some_saes() -> None:
    assert verdicts(by_rank=curves(recovered=(0.6, 0.4)))["proposal"] == PARTLY


@pytest.mark.parametrize(("wider", "expected"), [(0.253, HOLDS), (0.251, UNTESTABLE), (0.247, DIFFERS)])
def test_a_channel_is_held_against_twice_the_latents(wider, expected) -> None:
    assert verdicts(table(wider=wider))["width"] == expected


@pytest.mark.parametrize(("denser", "expected"), [(0.283, HOLDS), (0.281, UNTESTABLE), (0.277, DIFFERS)])
def test_numbers_per_token_are_compared_at_rank_l0(denser, expected) -> None:
    assert verdicts(table(denser=denser))["latents"] == expected


@pytest.mark.parametrize(("with_channel", "expected"), [(0.137, HOLDS), (0.139, UNTESTABLE), (0.143, DIFFERS)])
def test_a_dictionary_with_a_channel_is_held_against_its_twin(with_channel, expected) -> None:
    found = verdicts(trained=pair(with_channel))
    assert found["trained"] == found["architecture"] == expected
    assert verdicts()["trained"] == verdicts()["architecture"] == UNTESTABLE


def test_an_architecture_is_better_only_if_the_whole_error_falls_too() -> None:
    found = verdicts(trained=pair().assign(**estimates(fvu=0.33)))
    assert (found["trained"], found["architecture"]) == (HOLDS, DIFFERS)


@pytest.mark.parametrize(
    ("nonlinear", "expected"), [(0.15 * 0.898, HOLDS), (0.15 * 0.8995, UNTESTABLE), (0.15 * 0.902, DIFFERS)]
)
def test_a_tenth_of_the_nonlinear_error_counts_from_repairs_of_the_same_latents(nonlinear, expected) -> None:
    assert verdicts(table(search=nonlinear))["nonlinear"] == expected


def test_what_is_not_there_is_said_and_not_judged() -> None:
    few = table()[lambda rows: ~rows["repair"].isin(["wider", "denser", "decoder"])]
    found = verdicts(few)
    assert {found[name] for name in ("free", "width", "latents", "proposal")} == {UNTESTABLE}
    assert findings.claims(few, NONE, curves())["This run"].str.contains("not run").sum() == 3


def test_prices_stand_in_the_order_of_what_is_removed() -> None:
    view = findings.prices(table(widths=(512,)))
    assert view["Repair"].iloc[0] == NAMES["channel_full"] and NAMES["as it is"] not in set(view["Repair"])
    first = view.iloc[0]
    assert (first["parameters"], first["dense numbers"], first["linear"]) == ("1,600", "40", "100.0 % [99.9, 100.1]")
    assert (
        first["to be read?"].startswith("no")
        and view.set_index("Repair").loc[NAMES["denser"], "latents per token"] == "+4"
    )


def test_a_share_without_an_interval_is_written_without_one() -> None:
    found = row("boost") | {"removed_low": math.nan, "removed_high": math.nan}
    assert findings.percent(found, "removed") == "16.7 %"
    assert findings.percent(found | {"removed": math.nan}, "removed") == "–"


def test_sentences_read_the_tables() -> None:
    said = findings.lessons(table(), pair(), curves())
    assert said[0] == findings.ANSWERS[HOLDS]
    assert "20 % of its nonlinear part" in said[1] and said[1].endswith("**holds**.")
    assert "further latents would: **differs**" in said[2]
    assert "1,024 latents" in said[3] and "for nothing 3 % of the error (decoder refitted on its codes" in said[3]
    assert "50 % of the error is gone and 40 %" in said[4]
    assert "untestable here" in findings.lessons(table(), NONE, curves())[1]
    other = findings.lessons(table(), NONE, curves(recovered=(0.4, 0.4)))
    assert other[0] == findings.ANSWERS[DIFFERS]
    assert "about 2.0 activations" in findings.data_per_latent(256, 4, 512)


def test_charts_draw_their_tables() -> None:
    vl_convert = pytest.importorskip("vl_convert")
    whole = findings.everything(table(), pair())
    drawn = {
        f"{NAMES['denser']}</text>": arrows.arrows(whole),
        "512 latents: of the error, removed</text>": charts.shares(whole),
        "rank of the dense channel": charts.by_rank(curves(), table()),
    }
    for text, chart in drawn.items():
        spec = chart.to_json().replace('"container"', "500")
        assert text in vl_convert.vegalite_to_svg(spec, vl_version="6.4")


@pytest.mark.parametrize("repair", [name for name in NAMES if name != "as it is"])
def test_every_repair_is_of_a_kind(repair) -> None:
    assert arrows.kind(repair) in arrows.HUES


def test_the_numbers_of_arrows_meet_neither_each_other_nor_a_head() -> None:
    ends = pd.DataFrame([row("decoder", 0.25 + shift, 0.14) for shift in (0, 0, 0.0001, 0.0002, 0.001, -0.1, 0.05)])
    x, y = [0.0, 0.2], [0.1, 0.2]
    found = arrows.place_numbers(ends, x, y)
    at = arrows.PHONE * ends["fvu_linear"] / 0.2
    right, head = at + found["side"] * arrows.BESIDE, arrows.HEIGHT * (0.2 - 0.14) / 0.1
    down = arrows.HEIGHT * (0.2 - found["label_y"]) / 0.1
    for i in range(len(ends)):
        assert all(abs(down[i] - down[j]) >= 11.99 or abs(right[i] - right[j]) >= 14.99 for j in range(i))
        assert all(abs(down[i] - head) >= 12.99 or abs(right[i] - one) >= 14.49 for one in at)
    assert found["side"].tolist() == [-1] * 5 + [1, 1], "beyond the tip, unless that is beyond the chart"
    assert down[6] == pytest.approx(head), "an arrow by itself has its number beside it"


def test_repairs_are_numbered_kind_by_kind() -> None:
    found = arrows.key(pd.Series(["pursuit", "decoder", "wider", "decoder", "channel"]))
    assert found["key"].tolist() == [
        f"{n}  {NAMES[repair]}" for n, repair in enumerate(("decoder", "channel", "pursuit", "wider"), 1)
    ]


# --- the table that ships ----------------------------------------------------------------------------------


def run(repair, d_sae=512, nonlinear=0.14, fvu=0.28, layer=4):
    found = {"repair": repair, "d_sae": d_sae, "l0": 4, "layer": layer, "steps": 5, "tokens": 10, "train_seconds": 1.0}
    found |= {"before_fvu": 0.3, "before_fvu_linear": 0.15, "before_fvu_nonlinear": 0.15}
    values = {"fvu": fvu, "fvu_linear": fvu - nonlinear, "fvu_nonlinear": nonlinear, "ce": 0.5}
    return found | estimates(**values, **dict.fromkeys(set(SHARES) - {"ce"}, 0.1))


ABOUT = {"recipe": {"layer": 4, "dictionary": {"steps": 3, "batch": 4}}, "done": 2, "wanted": 3, "missing": ["kl_512"]}


def test_a_dictionary_with_a_channel_starts_at_its_twin() -> None:
    shipped = pd.DataFrame(
        [run("batchtopk", fvu=0.4, nonlinear=0.2), run("batchtopk_channel", fvu=0.3, nonlinear=0.15)]
    )
    found = results.rows(shipped, 4, D, [(512, 4.0)], 24)
    assert found["repair"].tolist() == ["batchtopk_channel"]
    only = found.iloc[0]
    assert (only["before_fvu"], only["removed"], only["removed_nonlinear"]) == pytest.approx((0.4, 0.25, 0.25))
    assert math.isnan(only["removed_low"]) and only["dense"] == 24 and only["trained"]
    assert results.rows(shipped.iloc[1:], 4, D, [(512, 4.0)], 24).empty  # without its twin it cannot be held against it


@pytest.mark.parametrize(("layer", "shown"), [(3, [(512, 4.0)]), (4, [(1024, 4.0)]), (4, [(512, 8.0)]), (4, [])])
def test_runs_of_other_saes_are_not_shown(layer, shown) -> None:
    found = results.rows(pd.DataFrame([run("boost")]), layer, D, shown, 24)
    assert found.empty
    assert "No trained repair of these SAEs" in results.told(
        found, ABOUT
    ) and "tuned, MSE and KL (width 512)" in results.told(found, ABOUT)


def test_what_ran_is_told_with_its_tokens_and_what_did_not() -> None:
    found = results.rows(pd.DataFrame([run("boost"), run("mse")]), 4, D, [(512, 4.0)], 24)
    said = results.told(found, ABOUT)
    assert (
        "2 trained repairs" in said
        and "on 12 tokens" in said
        and "on 10 (5 steps)" in said
        and "tuned, MSE and KL (width 512)" in said
    )


def test_a_table_is_read_as_it_was_written_and_damage_is_named(tmp_path) -> None:
    file = tmp_path / "repairs.csv"
    tables.write(file, [run("boost") | {"plan": {"a": 1}}], ABOUT)
    found, about = results.read(file)
    assert about == ABOUT and found["repair"].tolist() == ["boost"] and "plan" not in found
    file.write_text("nothing")
    with pytest.raises(LoadError, match="--ship"):
        results.read(file)


def test_the_shipped_table_is_one_that_the_chapter_can_say() -> None:
    shipped, about = results.read()
    assert len(shipped) == about["done"] and about["done"] + len(about["missing"]) == about["wanted"]
    assert (shipped["fvu_linear"] + shipped["fvu_nonlinear"]).to_numpy() == pytest.approx(
        shipped["fvu"].to_numpy(), abs=1e-4
    )
    sizes = list(zip(shipped["d_sae"], shipped["l0"], strict=True))
    found = results.rows(shipped, about["recipe"]["layer"], 128, sizes, about["recipe"]["channel_rank"])
    assert set(found["repair"]) <= set(NAMES)
    assert f"{about['done']} of {about['wanted']} runs ship" in results.told(found, about)


def test_only_dictionaries_with_a_channel_are_held_against_a_twin() -> None:
    boost = pd.DataFrame([row("boost", 0.3, 0.2, trained=True) | estimates(before_fvu=0.3, before_fvu_nonlinear=0.1)])
    both = pd.concat([pair(), boost])
    assert findings.lowers(both, "fvu_nonlinear") == [True]
    assert findings.pairs(both)["repair"].tolist() == ["batchtopk_channel"]
    assert verdicts(trained=both)["architecture"] == HOLDS
    assert findings.everything(table(), both).index.is_unique
    assert findings.together(both) == findings.together(pair())
    at = QUESTIONS.index("trained")
    words = [findings.claims(table(), trained, curves())["This run"].iloc[at] for trained in (both, pair())]
    assert words[0] == words[1]
