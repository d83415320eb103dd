"""The page on cost: the floor's arithmetic, the numbered bound on inputs chosen to break it, and what the sentences say."""

import pandas as pd
import pytest
import torch
from figures import figures

import dm_utils as dm
from dm_utils.chapters.costs import charts, experiment, findings


def drawn(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [40, 96] and weights [96, 50] of one kind."""
    rng = torch.Generator().manual_seed(5)
    y, W = torch.randn(40, 96, generator=rng), torch.randn(96, 50, generator=rng)
    if kind == "one massive dimension":
        y[:, 7] *= 1e4
    elif (
        kind == "halfway between two bfloat16 numbers"
    ):  # every residual is as large as it can be, and all agree in sign
        y, W = torch.full_like(y, 1 + 2**-8), torch.full_like(W, 1 + 2**-8)
    elif kind == "cancelling":
        W = torch.cat([W[:48], -W[:48]])
        y = torch.cat([y[:, :48], y[:, :48]], 1)
    elif kind == "tiny and huge":
        y *= 2.0 ** torch.randint(-40, 20, y.shape, generator=rng)
    return y, W


KINDS = ["gaussian", "one massive dimension", "halfway between two bfloat16 numbers", "cancelling", "tiny and huge"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_a_low_precision_product_is_within_its_bound(kind):
    share = experiment.worst_share(*drawn(kind))
    assert 0 < share <= 1


def test_the_bound_is_reached_where_all_residuals_agree():
    assert experiment.worst_share(*drawn("halfway between two bfloat16 numbers")) > 0.9


def test_the_floor_is_that_of_the_products_and_of_what_moves_once():
    profile = dm.load_profile("lab", n_contexts=10)
    rows = experiment.floors(profile, 2048, 16.0).set_index("step")
    n = 10 * 191
    dense, certified = rows.loc["encode, dense in float32"], rows.loc["encode, certified: the bfloat16 product"]
    assert dense["gflop"] == pytest.approx(2 * n * 128 * 2048 / 1e9)
    assert certified["gflop"] == dense["gflop"]
    assert certified["gb"] == pytest.approx(dense["gb"] / 2)
    assert rows.loc["decode, only the active latents", "gflop"] == pytest.approx(dense["gflop"] * 16 / 2048)


def test_every_active_latent_is_among_the_candidates_and_few_others(study):
    refs = [ref for ref in study.saes(width=2048) if ref.architecture == "jumprelu"]
    refs.append(study.sae(width=2048))
    found = experiment.in_question(study, refs, 256)
    assert found["sae_id"].tolist() == [ref.id for ref in refs]
    assert (found["ratio"] >= 1).all()
    assert (found["candidates"] < found["d_sae"] / 4).all()
    assert (found["share"] <= 1).all()
    said = findings.question_sentence(found, len(refs))
    assert f"{found['ratio'].max():.2f}" in said and "all can be certified" in said
    assert charts.in_question(found).to_dict()["layer"]


def test_times_are_given_for_each_stage(study):
    times = experiment.stage_times(study, study.sae(width=512), n_contexts=2, repeats=1)
    assert {"encode, dense float32", "encode, certified", "the bfloat16 product alone"} < set(times["stage"])
    assert (times["us"] >= 0).all()
    assert charts.stages(times).to_dict()["layer"]


def test_a_format_that_loses_partial_sums_is_named(careless_product: None):
    kept = experiment.partial_sums(torch.ones(96, 50))
    assert kept == {"bfloat16": False, "int8": False}
    said = findings.condition_sentence(kept, "a CPU")
    assert "bfloat16 and int8 do not keep" in said and "come from float32 instead" in said
    one = findings.condition_sentence({"bfloat16": True, "int8": False}, "a CPU")
    assert "products in int8 do not keep" in one and "come from bfloat16 or float32" in one
    assert "so both may screen" in findings.condition_sentence({"bfloat16": True, "int8": True}, "a CPU")


def test_the_sentences_follow_their_numbers():
    us = {"encode, dense float32": 8.0, "encode, certified": 4.0, "the bfloat16 product alone": 2.0}
    us |= {experiment.MODEL: 20.0, "decode": 1.0}
    table = pd.DataFrame({"stage": list(us), "us": list(us.values())})
    said = findings.stage_sentence(table, "a CPU")
    assert "on a CPU" in said and "0.50 times" in said and "2.0 times" in said and said.endswith("is the largest.")
    assert "not the largest" in findings.stage_sentence(pd.concat([table, table.tail(1).assign(us=9.0)]), "a CPU")
    assert "cannot be certified" in findings.stage_sentence(table.drop(1), "a CPU")
    none = pd.DataFrame(columns=experiment.COLUMNS)
    assert "None of these 3 SAEs" in findings.question_sentence(none.assign(ratio=[]), 3)


def test_a_gpu_is_spoken_of_only_where_its_table_is(tmp_path):
    assert "wait for one" in findings.gpu_sentence(tmp_path)
    (tmp_path / "gpu-h.csv").write_text("device,group,stage,seconds,gib\n")
    assert "`gpu-h.csv`" in findings.gpu_sentence(tmp_path)


def test_benchmark_rows_are_those_of_the_files(tmp_path):
    assert experiment.benchmark_rows(tmp_path).empty
    header = "device,threads,torch,case,l0,released/,float32/,/product,ties\n"
    (tmp_path / "encode-a.csv").write_text(header + "A,1,2,lab,3.9,3.5,2.5,1.5,0\n")
    (tmp_path / "encode-b.csv").write_text(header + "B,2,2,large,59.4,4.5,2.0,1.1,1\n")
    shown = findings.benchmark_table(experiment.benchmark_rows(tmp_path))
    assert shown["encode of"].tolist() == ["lab", "large"] and shown["L0"].tolist() == [3.9, 59.4]
    assert shown["machine"].tolist() == ["A, 1 thread", "B, 2 threads"]


def test_the_widest_and_narrowest_question_are_named():
    table = pd.DataFrame({"sae_id": list("abc"), "ratio": [1.5, 1.25, 2.5], "candidates": [40.0, 10, 30]})
    table = table.assign(d_sae=[100, 100, 200], share=[0.5, 0.75, 0.25])
    assert figures(findings.question_sentence(table, 6)) == "6 1.25 b 2.50 c 40.0 % 0.75"
    assert "half can be certified" in findings.question_sentence(table, 6)


def test_every_column_of_the_benchmark_is_named():
    rows = pd.DataFrame(
        {"case": ["lab"], "l0": 4.0, "released/": 3.5, "float32/": 2.5, "/product": 1.5, "ties": 0, "threads": 1}
    )
    shown = findings.benchmark_table(rows.assign(device="A"))
    assert shown.iloc[0].tolist() == ["lab", 4.0, 3.5, 2.5, 1.5, 0, "A, 1 thread"]
    assert not set(shown.columns) & set(rows.columns) - {"ties"}


def test_what_a_whole_case_took_is_shown_way_by_way(tmp_path):
    header = "device,threads,torch,case,way,seconds,released/\n"
    (tmp_path / "sweep-a.csv").write_text(header + "A,1,2,lab,released,8,1\nA,1,2,lab,certified,2,4\n")
    (tmp_path / "encode-a.csv").write_text("device\nB\n")
    shown = findings.whole_table(experiment.benchmark_rows(tmp_path, "sweep"))
    assert shown["way"].tolist() == ["released", "certified"]
    assert shown["times as fast as the released procedure"].tolist() == [1, 4]
    assert set(shown["machine"]) == {"A, 1 thread"}


def test_every_floor_by_hand():
    """10 contexts of 191 tokens of 128 numbers; weights [128, 512]; four bytes per number."""
    rows = experiment.floors(dm.load_profile("lab", n_contexts=10, fit_fraction=0.5), 512, 16.0).set_index("step")
    n, d, width = 10 * 191, 128, 512
    x, weights, fit = 4 * n * d, 4 * d * width, n / 2
    known = {
        "moments of the activations": ("site", 2 * fit * d * d, x),
        "encode, dense in float32": ("SAE", 2 * n * d * width, x + weights),
        "encode, certified: the bfloat16 product": ("SAE", 2 * n * d * width, (x + weights) / 2),
        "decode, only the active latents": ("SAE", 2 * n * 16 * d, x + weights + 8 * n * 16),
        "linear maps: fit and apply": ("SAE", 2 * (fit + n) * d * d, 2 * x),
    }
    assert list(rows.index) == list(known)
    for step, (of, flop, moved) in known.items():
        assert rows.loc[step, "of"] == of
        assert rows.loc[step, ["gflop", "gb"]].tolist() == pytest.approx([flop / 1e9, moved / 1e9])


def test_what_is_in_question_is_counted_per_token(study):
    from dm_utils.maths.encoding import encode

    ref = study.sae(width=512)
    found = experiment.in_question(study, [ref], 200).iloc[0]
    sae, x = study.load_sae(ref), study.site().x[:200]
    assert found["active"] == pytest.approx(float(encode(sae, x).l0.double().mean()), rel=1e-6)
    encoder, activation = experiment.encoder_of(sae)
    y = encoder.inputs(x)
    pairs = experiment.screen_of(encoder, activation).candidates(y, activation.k, len(y) * 512)
    assert found["candidates"] == len(pairs[0]) / 200
    assert found["share"] == pytest.approx(experiment.worst_share(y[:64], encoder.W_enc))
    assert found["ratio"] == found["candidates"] / found["active"]
    about = {name: getattr(ref, name) for name in ("hook_name", "architecture", "d_sae", "l0")}
    assert found[[*about, "sae_id", "near_l0"]].to_dict() == about | {"sae_id": ref.id, "near_l0": 4}


def test_an_sae_that_cannot_be_certified_has_no_row(study, monkeypatch, tmp_path):
    from dm_utils.engine.store import Store
    from dm_utils.engine.study import Study

    monkeypatch.setattr(experiment, "encoder_of", lambda _: None)
    found = experiment.in_question(Study(study.profile, Store(tmp_path)), [study.sae(width=512)], 200)
    assert found.empty and list(found.columns) == [*experiment.COLUMNS, "ratio"]


def test_a_median_leaves_the_run_that_warms_out(monkeypatch):
    ticks = iter([0, 100, 100, 101, 200, 203, 300, 302])
    monkeypatch.setattr(experiment, "processor_clock", lambda _: lambda: next(ticks))
    assert experiment._median(lambda: None, torch.device("cpu"), 3) == 2
