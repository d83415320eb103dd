"""What determines a chapter's result is in its key: every argument and setting, and no two results of one table share one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from dm_utils.chapters.A_more_predictions import baselines, learning_curve
from dm_utils.chapters.beyond_linear import experiment as beyond_linear
from dm_utils.chapters.C_synthetic.experiment import NoisePlan, recover
from dm_utils.chapters.costs import experiment as costs
from dm_utils.chapters.repairs.patient import Patient
from dm_utils.chapters.s04_1_error_norms import positions
from dm_utils.chapters.s05_1_norm_test import experiment as norm_test
from dm_utils.chapters.s05_3_downstream import experiment as downstream
from dm_utils.chapters.s05_3_downstream import mixing
from dm_utils.chapters.s06_1_pursuit import controls, encoders
from dm_utils.chapters.s06_2_between_saes import experiment as between
from dm_utils.chapters.structure import experiment as structure
from dm_utils.chapters.structure.measures import Sizes
from dm_utils.engine import explorer_fits, released, token_loss
from dm_utils.world import models
from dm_utils.world.profiles import load_profile
from dm_utils.world.sae_ref import SaeRef

REF = SaeRef("lab", "one", "resid", 4, "blocks.4.hook_resid_post", "topk", 512, 4.0)
OTHER = replace(REF, id="other")
SIZES = Sizes(2000, 8, 16, 6)
BASE = load_profile("lab", n_contexts=24)


class Noting:
    """In the place of a store: it notes the keys that it is asked for, and computes nothing."""

    def __init__(self, answer: Any):
        self.answer, self.keys = answer, list[dict[str, Any]]()

    def kept(self, kind: str, key: Mapping[str, Any], compute: Any, *, sources: Any) -> Any:
        assert sources
        self.keys.append({"kind": kind} | dict(key))
        if self.answer is None:
            raise LookupError(kind)
        return self.answer

    def holds(self, *_: Any, **__: Any) -> bool:
        return True


class Bare(SimpleNamespace):
    """A study of which only the profile, the names of SAEs and the store are known."""

    def site(self, *_: Any) -> None:
        return None

    def result_key(self, ref: SaeRef) -> dict[str, Any]:
        return {"sae": ref.id, "site": ref.hook_name}

    def saes(self, **_: Any) -> list[SaeRef]:
        return [REF]

    def collect(self, wanted: Any) -> None:
        list(wanted)

    def measure(self, refs: list[SaeRef]) -> pd.DataFrame:
        return pd.DataFrame({"sae_id": [ref.id for ref in refs]})


def keys(call: Callable[[Bare], object], answer: Any = None, **profile: Any) -> list[dict[str, Any]]:
    """The keys that a call asks the store for."""
    store = Noting(answer)
    study = Bare(profile=BASE.with_overrides(**profile), store=store, contexts=torch.zeros(2, 3, dtype=torch.long))
    with contextlib.suppress(LookupError):
        call(study)
    assert store.keys
    return store.keys


ONE_SAE: dict[str, Callable[[Any, SaeRef], object]] = {
    "released protocol": released.released_protocol,
    "norm test": norm_test.self_tests,
    "by position": positions.by_position,
    "linear by rank": beyond_linear.by_rank,
    "networks": lambda study, ref: beyond_linear.by_size(study, ref, [4], 1, 1),
    "norm predictors": lambda study, ref: baselines.compare_norm_predictors(study, [ref]),
    "learning curve": learning_curve.norm_learning_curve,
    "candidates": lambda study, ref: costs.in_question(study, [ref], 64),
    "pursuit": encoders.encoded_result,
    "pursuit's controls": controls.dictionary_controls,
    "mixtures": mixing.mixing_grid,
    "planting": lambda study, ref: recover(study, ref, NoisePlan()),
    "structure": lambda study, ref: structure.by_vector(study, ref, [1], SIZES),
    "explorer's fits": explorer_fits.fitted,
    "explorer's contexts": explorer_fits.strongest,
    "repairs": lambda study, ref: Patient(study, ref, 4, 8, 4).left(),
    "repairs by rank": lambda study, ref: Patient(study, ref, 4, 8, 4).curve(),
}


@pytest.mark.parametrize("call", ONE_SAE.values(), ids=list(ONE_SAE))
def test_another_sae_is_another_result(call: Callable[[Any, SaeRef], object]) -> None:
    assert keys(lambda study: call(study, REF)) == keys(lambda study: call(study, REF))
    assert keys(lambda study: call(study, REF)) != keys(lambda study: call(study, OTHER))


PLAN = {"noise_x": (0.3,), "noise_sae": (0.3,), "masked": (0.5,), "kind_x": "other", "kind_sae": "other"}
PLAN |= {"correlation": 0.5, "order": "random", "n_tokens": 100, "seed": 1, "n_bootstrap": 100}


@pytest.mark.parametrize("name", [field.name for field in fields(NoisePlan)])
def test_a_plan_of_noise_is_in_the_key_with_every_field(name: str) -> None:
    plain, changed = NoisePlan(), replace(NoisePlan(), **{name: PLAN[name]})
    assert keys(lambda study: recover(study, REF, plain)) != keys(lambda study: recover(study, REF, changed))


@pytest.mark.parametrize("name", [field.name for field in fields(Sizes)])
def test_every_size_of_the_structures_tests_is_in_the_keys(name: str) -> None:
    more = replace(SIZES, **{name: getattr(SIZES, name) + 1})
    for call in (
        lambda study, sizes: structure.by_vector(study, REF, [1], sizes),
        lambda study, sizes: structure.by_layer(study, REF, sizes),
    ):
        assert keys(lambda study, call=call: call(study, SIZES)) != keys(lambda study, call=call: call(study, more))


def test_each_vector_and_set_of_l0s_is_a_result_of_its_own() -> None:
    def asked(l0s: list[int]) -> list[dict[str, Any]]:
        return keys(lambda study: structure.by_vector(study, REF, l0s, SIZES), ([{"l0": 1.0}], {}))

    first = asked([1])
    assert [key["vector"] for key in first] == list(structure.SHOWN)
    assert all(one != other for one, other in zip(first, asked([2]), strict=True))


def test_a_layers_shape_depends_on_the_rank_of_its_planes() -> None:
    dense = replace(REF, l0=9.0)
    asked = [keys(lambda study, ref=ref: structure.by_layer(study, ref, SIZES)) for ref in (REF, dense)]
    assert asked[0] != asked[1]


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("n_bootstrap", 300)])
def test_planted_clouds_depend_on_the_seed_and_the_resamples(name: str, value: int) -> None:
    assert keys(structure.by_plant) != keys(structure.by_plant, **{name: value})


def test_each_network_is_a_result_of_its_own() -> None:
    def asked(max_epochs: int) -> list[dict[str, Any]]:
        answer = ({"about": {}, "estimates": {}}, {})
        return keys(lambda study: beyond_linear.by_size(study, REF, [4, 8], 2, max_epochs), answer)

    found = asked(1)
    assert len(found) == 8  # the affine map, two sizes with two seeds; of the twin one each
    assert all((found + asked(2)).count(key) == 1 for key in found)


def test_each_neighbour_kind_and_set_of_regressors_is_a_result_of_its_own() -> None:
    estimate = [1.0, 0.0, 2.0, ""]
    near = [between.Neighbour("same", REF, "both"), between.Neighbour("other", OTHER, "both")]
    answer = ([[estimate, estimate]] * 3, {})
    found = keys(lambda study: between.predict_parts(study, REF, near, SimpleNamespace(x=None)), answer)
    other = keys(
        lambda study: between.predict_parts(study, replace(REF, id="x"), near[1:], SimpleNamespace(x=None)), answer
    )
    assert len(found) == 3 + 4 and len(other) == 4
    assert all((found + other).count(key) == 1 for key in found + other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            lambda s: learning_curve.norm_learning_curve(s, REF),
            lambda s: learning_curve.norm_learning_curve(s, REF, (1,)),
        ),
        (lambda s: costs.in_question(s, [REF], 64), lambda s: costs.in_question(s, [REF], 65)),
        (lambda s: encoders.encoded_result(s, REF), lambda s: encoders.encoded_result(s, REF, "refit")),
        (lambda s: controls.dictionary_controls(s, REF), lambda s: controls.dictionary_controls(s, REF, 64)),
        (lambda s: mixing.mixing_grid(s, REF), lambda s: mixing.mixing_grid(s, REF, 4)),
        (lambda s: mixing.mixing_grid(s, REF), lambda s: mixing.mixing_grid(s, REF, steps=3)),
        (lambda s: Patient(s, REF, 4, 8, 4).left(), lambda s: Patient(s, REF, 5, 8, 4).left()),
        (lambda s: Patient(s, REF, 4, 8, 4).searched(), lambda s: Patient(s, REF, 4, 9, 4).searched()),
        (lambda s: Patient(s, REF, 4, 8, 4).losses(), lambda s: Patient(s, REF, 5, 8, 4).losses()),
        (lambda s: Patient(s, REF, 4, 8, 4).losses(), lambda s: Patient(s, REF, 4, 8, 5).losses()),
        (lambda s: Patient(s, REF, 4, 8, 4).losses(), lambda s: Patient(s, REF, 4, 4, 8).searched()),
    ],
)
def test_an_argument_that_moves_a_number_is_in_the_key(one: Any, other: Any) -> None:
    assert keys(one) != keys(other)


SPLICES = {"seed": 1, "fit_fraction": 0.5, "split_by": "context"}


@pytest.mark.parametrize("name", [*SPLICES, "n_contexts"])
def test_a_splice_depends_on_what_is_held_out_and_on_how_many_contexts(name: str) -> None:
    def asked(n: int, **profile: Any) -> list[dict[str, Any]]:
        return keys(lambda study: downstream.spliced_losses(study, [REF, OTHER], n), ({}, {}), **profile)

    before = asked(4)
    after = asked(5) if name == "n_contexts" else asked(4, **{name: SPLICES[name]})
    assert len(before) == 3, "each SAE, and what they share"
    assert all((before + after).count(key) == 1 for key in before + after)


@pytest.mark.parametrize(("name", "value"), [("skip", 65), ("dtype", "bfloat16")])
def test_a_loss_depends_on_the_tokens_kept_and_on_the_models_dtype(name: str, value: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(models, "identity", lambda _: "a model")
    assert keys(token_loss.token_losses) != keys(token_loss.token_losses, **{name: value})


def test_a_loss_depends_on_the_model_and_on_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for model, token in (("a", 0), ("b", 0), ("a", 1)):
        monkeypatch.setattr(models, "identity", lambda _, model=model: model)

        def call(study: Bare, token: int = token) -> None:
            study.contexts = torch.full((2, 3), token)
            token_loss.token_losses(study)

        found += keys(call)
    assert all(found.count(key) == 1 for key in found)


def test_the_explorers_contexts_depend_on_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(lambda study: explorer_fits.strongest(study, REF))
    monkeypatch.setattr(explorer_fits, "CONTEXTS", explorer_fits.CONTEXTS + 1)
    assert keys(lambda study: explorer_fits.strongest(study, REF)) != before
