"""The GPU benchmark runs the same code on a CPU, at small sizes."""

import sys

import pytest
import torch
from demo import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu

SMALL = "--device cpu --shape small --widths 512 --contexts 16 --ctx-len 128 --skip 16 --l0 16 --n-bootstrap 100"
SMALL += " --pursuit-tokens 64 --released-tokens 1024"


@pytest.fixture(scope="module")
def printed():
    return []


@pytest.fixture(scope="module")
def differences(printed):
    return gpu.run(gpu.parser().parse_args(SMALL.split()), printed.append)


def test_every_path_agrees_with_float32_and_with_the_released_procedure(differences):
    paths = {"bfloat16 activations", "certified, 512", "tf32, 512", "bfloat16 model, 512", "released, 512"}
    assert differences.keys() == paths
    assert all(check.agrees for check in differences.values()), differences
    assert differences["bfloat16 model, 512"].difference > 0, "another precision"
    assert differences["released, 512"].difference < 1e-5
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_report_names_the_peak_the_metrics_and_the_ratio(differences, printed):
    text = "\n".join(printed)
    for wanted in ("TFLOP/s", "r2_error_vector 0.", "released / engine:", "SAE of 512 latents, 1,776 tokens"):
        assert wanted in text


def test_a_disagreement_fails_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *SMALL.split()])
    for difference, status in ((2e-3, 1), (5e-4, 0), (float("nan"), 1)):
        monkeypatch.setattr(gpu, "run", lambda _, moved=difference: {"tf32, 512": gpu.Check(moved, gpu.TOLERANCE)})
        assert gpu.main() == status
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert "--device cpu" in capsys.readouterr().out


def test_the_stand_in_has_the_l0_and_the_scale_of_a_trained_sae():
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 3, 64) + 5
    sae = gpu.stand_in(x, width=1024, l0=24)
    l0 = gpu.encode(sae, x).l0.double()
    assert l0.median() == pytest.approx(24, abs=4)
    error = x - gpu.saes.reconstruct(sae, x)
    assert 0.05 < error.square().sum() / (x - x.mean(0)).square().sum() < 0.9


def test_both_precisions_hold_the_same_weights():
    models = [gpu.random_model("small", dtype, torch.device("cpu")) for dtype in (torch.float32, torch.bfloat16)]
    full, half = (dict(model.named_parameters()) for model in models)
    assert full.keys() == half.keys()
    assert all(torch.equal(full[name].bfloat16(), half[name]) for name in full)
    assert {value.dtype for value in half.values()} == {torch.bfloat16}


def test_the_count_of_operations_is_the_models_own():
    model = gpu.random_model("small", torch.float32, torch.device("cpu"))
    layer = gpu.SHAPES["small"][-1]
    weights = {id(p): p for n, p in model.original_model.model.layers[: layer + 1].named_parameters() if p.ndim == 2}
    assert gpu.forward_flops("small", 7) == 2 * 7 * sum(p.numel() for p in weights.values())


def test_roundings_that_do_not_know_the_target_move_r2_by_less_than_is_allowed(monkeypatch):
    """Targets of known R² and changes of known size, 200 times: the first-order law with its three deviations."""
    monkeypatch.setattr(gpu.saes, "reconstruct", lambda sae, x: torch.zeros_like(x))
    rng, n, worst = torch.Generator().manual_seed(0), 700, 0.0
    for _ in range(200):
        known = torch.randn(n, generator=rng)
        norms = (20 + 0.8 * known + 0.6 * torch.randn(n, generator=rng)).sqrt()[:, None]
        moved = (norms**2 + 0.03 * torch.randn(n, 1, generator=rng)).sqrt()
        r2 = [float(torch.corrcoef(torch.stack([known, vector[:, 0] ** 2]))[0, 1] ** 2) for vector in (norms, moved)]
        allowed = gpu.rounding_allowance(None, {"float32": norms, "bfloat16": moved}, torch.ones(n, dtype=torch.bool))
        worst = max(worst, abs(r2[1] - r2[0]) / allowed)
    assert 0.3 < worst < 1.1, "three deviations hold in 99.7 % of draws, and are not far from reached"
