"""Models through the bridge: Hugging Face's own logits; less at a time where memory runs out; refusals that help."""

import logging

import pytest
import torch
from tiny_models import boot, random_model

from dm_utils.base.errors import ParameterError
from dm_utils.world import hub, memory, models, saes
from dm_utils.world.profiles import load_profile
from dm_utils.world.sae_ref import SaeRef

ALL = ["gemma2", "gemma3", "llama", "gpt2"]
TOKENS = torch.randint(2, 97, (10, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ALL)
def test_logits_are_hugging_faces_own(architecture, tmp_path):
    bridge = boot(architecture, tmp_path)
    reference = random_model(architecture).eval()
    reference.config._attn_implementation = "eager"
    with torch.inference_mode():
        torch.testing.assert_close(bridge(TOKENS), reference(TOKENS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_batch_and_says_so(tmp_path, monkeypatch, caplog, error):
    bridge, sizes = boot("llama", tmp_path), []
    hooks = ["blocks.1.hook_resid_post"]
    whole = torch.cat([found[hooks[0]] for found in models.activations(bridge, TOKENS, hooks, 10)])

    run = bridge.run_with_hooks

    def small(tokens, **options):
        sizes.append(len(tokens))
        if len(tokens) > 3:
            raise error("CUDA out of memory. Tried to allocate 20 GiB")
        return run(tokens, **options)

    monkeypatch.setattr(bridge, "run_with_hooks", small)
    with caplog.at_level(logging.WARNING, "dm_utils"):
        found = torch.cat([found[hooks[0]] for found in models.activations(bridge, TOKENS, hooks, 8)])
    torch.testing.assert_close(found, whole)
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert "out of memory with 8 at a time; going on with 4" in caplog.text


def test_out_of_memory_with_one_at_a_time_is_an_error():
    def never(size):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(MemoryError, match="out of memory with 1 at a time"):
        memory.with_less(never, 4, "tokens per block")
    with pytest.raises(RuntimeError, match="something else"):
        memory.with_less(lambda _: (_ for _ in ()).throw(RuntimeError("something else")), 4, "tokens per block")


def test_a_model_that_does_not_fit_is_refused_before_it_loads(monkeypatch):
    monkeypatch.setattr(models, "available", lambda _: 1000)
    with pytest.raises(hub.LoadError, match=r"lab takes 0\.0 GiB in float32; the CPU has 0\.0 GiB free.*`dm profiles`"):
        models.load_model(load_profile("lab", device="cpu"))


def test_dtype_and_device_are_said_once(caplog):
    with caplog.at_level(logging.INFO, "dm_utils"):
        models.load_model(load_profile("lab", device="cpu"))
    assert [record.message for record in caplog.records if "runs in" in record.message] == [
        "lab runs in float32 on the CPU; `dtype` and `device` override this"
    ]


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(hub.LoadError, match=r"model = './nowhere': there is no such folder"):
        models.model_path(load_profile("lab").model_copy(update={"model": "./nowhere"}))


def test_an_sae_that_does_not_fit_is_refused_with_the_nearest_that_does():
    profile = load_profile("lab")
    refs = saes.catalog(profile)
    (ref,) = [ref for ref in refs if ref.id == "resid_4_topk_2048_l0_4"]
    sae = saes.load_sae(ref)
    saes.check_fits(ref, sae, ref.hook_name, 128, refs)
    other = SaeRef("elsewhere", "mine", "resid", 2, "blocks.2.hook_resid_post", "topk", 2000, 15.0)
    with pytest.raises(
        ParameterError, match=r"'mine'.*blocks\.2.*site is blocks\.4.*nearest that fits is 'resid_4_topk_2048"
    ):
        saes.check_fits(other, sae, "blocks.4.hook_resid_post", 128, refs)
    with pytest.raises(ParameterError, match=r"reads vectors of 128 numbers, and those of blocks\.4.* have 768"):
        saes.check_fits(ref, sae, ref.hook_name, 768)
