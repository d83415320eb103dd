"""What a profile refuses, it explains; what it follows from a model's or an SAE's own files, it reads there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from dm_utils.base.errors import LoadError, ParameterError
from dm_utils.world import hub, own_profile, saes
from dm_utils.world.profile import Profile
from dm_utils.world.profiles import SHAPES, load_profile, profile_names
from dm_utils.world.sae_ref import SaeRef

LAB = load_profile("lab")


def test_every_field_says_what_it_may_be() -> None:
    """A refusal quotes it; the name and the sizes of the shipped profiles are never refused by their kind."""
    assert all(field.description for field in Profile.model_fields.values())


def test_a_refusal_shows_the_profiles_own_value_as_it_would_be_given() -> None:
    with pytest.raises(ParameterError, match=r"^dataset = 7: it must be .*; lab's own value is 'stdlib-docs'$"):
        load_profile("lab", dataset=7)
    with pytest.raises(ParameterError, match=r"^near_l0 = 'x{99}.*characters\): it must be"):
        load_profile("lab", near_l0="x" * 1000)


@pytest.mark.parametrize("wrong", [{"another": 1}, {"layer": "2"}, {"near_l0": float("inf")}, {"seed": 1.0}])
def test_a_profile_takes_its_fields_alone_and_each_in_its_own_kind(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Profile(**{**dict(LAB), **wrong})
    with pytest.raises(ValidationError):
        LAB.layer = 2  # type: ignore[misc]


def test_the_fewest_contexts_that_are_offered_would_do() -> None:
    with pytest.raises(ParameterError, match=r"n_contexts = 2: .* give at least (\d+) contexts") as refused:
        load_profile("lab", n_contexts=2, skip=200)
    offered = int(str(refused.value).split("at least ")[1].split()[0])
    assert load_profile("lab", n_contexts=offered, skip=200).n_contexts == offered


def model_folder(folder: Path, **config: object) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"num_hidden_layers": 3, "hidden_size": 16}, (3, 16)),
        ({"n_layer": 4, "n_embd": 8}, (4, 8)),
        ({"text_config": {"num_hidden_layers": 5, "hidden_size": 32}, "hidden_size": 9}, (5, 32)),
    ],
)
def test_sizes_are_read_from_the_models_own_file(
    tmp_path: Path, config: dict[str, object], sizes: tuple[int, int]
) -> None:
    found = own_profile.model_sizes(model_folder(tmp_path / "mine", **config))
    assert (found["n_layers"], found["d_model"]) == sizes


def test_a_folder_without_sizes_is_refused_by_name(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ParameterError, match="names neither of"):
        own_profile.model_sizes(model_folder(tmp_path / "half", num_hidden_layers=3))
    (tmp_path / "none").mkdir()
    with pytest.raises(ParameterError, match=r"the folder holds no config\.json"):
        own_profile.model_sizes(str(tmp_path / "none"))
    asked = []

    def refuse(*given: object) -> Path:
        asked.append(given)
        raise LoadError("no hub")

    monkeypatch.setattr(hub, "fetch", refuse)
    with pytest.raises(LoadError, match=r"^model = 'a/b': no hub$"):
        own_profile.model_sizes("a/b", "v1")
    assert asked == [("a/b", "v1", ["config.json"])]


@pytest.mark.parametrize(("n_layers", "layer"), [(6, 4), (12, 8), (3, 2), (1, 0), (13, 9)])
def test_a_model_of_your_own_is_read_as_deep_as_the_profiles(tmp_path: Path, n_layers: int, layer: int) -> None:
    """The lab's layer is 4 of 6: two thirds of the depth, and never beyond the last."""
    model = model_folder(tmp_path / "mine", num_hidden_layers=n_layers, hidden_size=16)
    found = load_profile("lab", model=model)
    assert (found.name, found.title, found.n_layers, found.d_model, found.layer) == ("own", "mine", n_layers, 16, layer)
    assert load_profile("lab", model=model, layer=0).layer == 0


def ref(layer: int, d_sae: int, l0: float, component: str = "resid") -> SaeRef:
    name = f"{component}-{layer}-{d_sae}-{l0:g}"
    about = {"release": "mine", "id": name, "hook_name": f"blocks.{layer}.hook_x", "architecture": "topk"}
    return SaeRef(layer=layer, d_sae=d_sae, l0=l0, component=component, **about)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch):
    """A folder whose catalog says what a test wants."""
    found: list[SaeRef] = []
    monkeypatch.setattr(saes, "release_catalog", lambda name: found)
    return str(tmp_path), found


@pytest.mark.parametrize(
    ("refs", "expected"),
    [
        ([ref(3, 512, 9), ref(1, 512, 9), ref(5, 999, 9)], (3, 512, 9)),  # 3 and 5 are as near: the lower
        ([ref(0, 1024, 3), ref(0, 4096, 5)], (0, 1024, 5)),  # half and twice are as near: the narrower; 4/3 and 5/4
        ([ref(2, 4000, 2), ref(2, 900, 8)], (2, 4000, 2)),  # of 2 and 8 the smaller
        ([ref(4, 2048, 0), ref(4, 2048, 16)], (4, 2048, 16)),  # 0 is no label
        ([ref(4, 2048, 0)], (4, 2048, 4)),
        ([ref(4, 100, 7, "mlp"), ref(1, 300, 9)], (1, 300, 9)),  # residual SAEs first
        ([ref(4, 100, 7, "mlp")], (4, 100, 7)),
    ],
)
def test_layer_width_and_l0_are_those_of_the_nearest_saes(folder, refs, expected) -> None:
    name, found = folder
    found += refs
    profile = load_profile("lab", releases={"resid": (name,)})
    assert (profile.layer, profile.width, profile.near_l0) == expected


def test_what_is_given_comes_before_what_is_near(folder) -> None:
    name, found = folder
    found += [ref(1, 512, 8), ref(3, 1024, 16)]
    profile = load_profile("lab", releases={"resid": (name,)}, layer=1, width=7)
    assert (profile.layer, profile.width, profile.near_l0) == (1, 7, 8)


def test_names_of_releases_are_sorted_by_what_their_saes_sit_at(monkeypatch) -> None:
    catalogs = {"a": [ref(1, 8, 1, "mlp"), ref(2, 8, 1, "mlp")], "b": [ref(1, 8, 1), ref(1, 8, 1, "mlp")]}
    monkeypatch.setattr(saes, "release_catalog", catalogs.__getitem__)
    assert own_profile.by_component(["a", "b"]) == {"mlp": ("a", "b"), "resid": ("b",)}
    assert own_profile.by_component("b") == {"resid": ("b",), "mlp": ("b",)}
    for wrong in (3, [1, "a"], {"resid": "a"}):
        assert own_profile.by_component(wrong) == wrong

    def refuse(name: str) -> list[SaeRef]:
        raise ParameterError("no such release")

    monkeypatch.setattr(saes, "release_catalog", refuse)
    with pytest.raises(ParameterError, match=r"^releases = 'c': no such release$"):
        own_profile.by_component("c")


def test_every_field_of_an_sae_is_in_its_key_but_where_it_is_fetched_from(monkeypatch) -> None:
    monkeypatch.setattr(hub, "commit", lambda repo, revision: f"{repo} at {revision}")
    local = replace(ref(1, 8, 2), revision="digest")
    changes = {"release": "x", "id": "x", "component": "mlp", "layer": 0, "hook_name": "x", "architecture": "x"}
    changes |= {"d_sae": 9, "l0": 3.0, "revision": "x"}
    for name, value in changes.items():
        assert replace(local, **{name: value}).key() == local.key() | {name: value} != local.key()
    released = replace(local, repo="a/b", revision="")
    assert released.key() == local.key() | {"revision": "a/b at None"}
    assert replace(released, revision="v1").commit == "a/b at v1" and local.commit == "digest"
    assert replace(local, id="mine/one").name == "one" and replace(local, id="other/one").name == "other/one"


SHIPPED: dict[
    str, tuple[object, ...]
] = {  # layer, near_l0, width, max_width, dtype, batch, releases of the residual stream
    "lab": (4, 4, 2048, None, "float32", 64, ("lab",)),
    "gpt2-small": (6, 32, 32768, None, "float32", 8, ("gpt2-small-resid-post-v5-32k", "gpt2-small-resid-post-v5-128k")),
    "gemma-2-2b": (12, 60, 16384, 131072, "bfloat16", 1, ("gemma-scope-2b-pt-res",)),
    "gemma-2-9b": (20, 60, 16384, None, "bfloat16", 2, ("gemma-scope-9b-pt-res",)),
    "gemma-3-1b": (
        *(13, 60, 16384, 262144, "bfloat16", 2),
        ("gemma-scope-2-1b-pt-res", "gemma-scope-2-1b-pt-res-all"),
    ),
    "llama-3.1-8b": (16, 50, 32768, None, "bfloat16", 2, ("llama_scope_lxr_8x", "llama_scope_lxr_32x")),
}


def test_what_ships_is_written_twice_since_every_published_number_hangs_on_it() -> None:
    assert list(SHIPPED) == profile_names()
    for name, expected in SHIPPED.items():
        p = load_profile(name)
        found = (p.layer, p.near_l0, p.width, p.max_width, p.dtype, p.batch, p.releases["resid"])
        assert found == expected, name
        assert {part: len(names) for part, names in p.releases.items()}.keys() == {"resid", "mlp", "att"}
        if name != "lab":  # the paper: 247 k tokens of the Pile
            assert (p.n_contexts, p.ctx_len, p.skip, p.dataset) == (300, 1024, 200, "monology/pile-uncopyrighted")
            assert p.n_contexts * p.kept_per_context == 246_900
    assert (LAB.n_contexts, LAB.ctx_len, LAB.skip, LAB.dataset) == (768, 256, 64, "stdlib-docs")
    assert LAB.precision == "float32"


def test_the_models_that_need_a_licence_are_those_of_google_and_meta() -> None:
    assert {name for name, shape in SHAPES.items() if shape.needs_licence} == {
        name for name in SHAPES if name.startswith(("google/", "meta-llama/"))
    }
    assert {name: shape.file_bytes for name, shape in SHAPES.items() if shape.file_bytes == 2}.keys() == {
        *("lab", "google/gemma-3-1b-pt", "meta-llama/Llama-3.1-8B")
    }
