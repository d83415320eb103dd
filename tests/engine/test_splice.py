"""Specification of splicing (Section 5.3): what is replaced, what it costs, and that nothing else changes."""

import pytest
import torch
from tiny_models import ARCHITECTURES, VOCABULARY, boot

from dm_utils.engine import splice as module
from dm_utils.engine.splice import splice

N_CONTEXT, CTX_LEN = 3, 24
SITES = ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.2.attn.hook_z"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tmp_path_factory):
    return boot(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def contexts():
    return torch.randint(0, VOCABULARY, (N_CONTEXT, CTX_LEN), generator=torch.Generator().manual_seed(1))


def changes(x, index):
    """Three variants: x itself, something else of the same size, and the mean."""
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(index)) * x.std() + x
    return {"identity": x, "noisy": other, "mean": x.mean(0).expand_as(x)}


def losses_one_at_a_time(model, contexts, hook_name, variants, kept):
    """Slow twin: one plain run per context and variant, a hook that overwrites the kept positions, the whole logits."""
    rows = []
    for index, tokens in enumerate(contexts):
        original = model(tokens[None], return_type="logits")[0].log_softmax(-1)
        held = {}
        model.run_with_hooks(
            tokens[None],
            return_type=None,
            fwd_hooks=[(hook_name, lambda value, hook, held=held: held.update(x=value.clone()))],
        )
        for vectors in [None, *variants(held["x"][0, kept].flatten(1), index).values()]:

            def overwrite(value, hook, vectors=vectors):
                value = value.clone()
                if vectors is not None:
                    value[0, kept] = vectors.view_as(value[0, kept])
                return value

            log_p = model.run_with_hooks(tokens[None], return_type="logits", fwd_hooks=[(hook_name, overwrite)])[0]
            log_p = log_p.log_softmax(-1)
            ce = -log_p[:-1].gather(1, tokens[1:, None])[kept, 0]
            rows.append((ce, (original.exp() * (original - log_p)).sum(-1)[:-1][kept]))
    per_context = len(rows) // len(contexts)
    return [torch.stack([torch.cat([r[i] for r in rows[v::per_context]]) for v in range(per_context)]) for i in (0, 1)]


@pytest.mark.parametrize("hook_name", SITES)
@torch.no_grad()
def test_equals_one_plain_run_per_variant(model, contexts, hook_name):
    kept = slice(5, CTX_LEN - 1)
    found = splice(model, contexts, hook_name, changes, kept=kept, progress=False)
    cross_entropy, kl = losses_one_at_a_time(model, contexts, hook_name, changes, kept)
    assert found.names == ("original", "identity", "noisy", "mean")
    torch.testing.assert_close(found.cross_entropy, cross_entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.kl, kl, rtol=1e-4, atol=1e-5)
    assert (found.kl[2] > 1e-3).all()


def test_splicing_in_x_itself_changes_no_loss(model, contexts):
    found = splice(model, contexts, SITES[0], changes, kept=slice(5, CTX_LEN - 1), progress=False)
    assert found.hand_over < 1e-5
    torch.testing.assert_close(found.cross_entropy[1], found.cross_entropy[0], rtol=0, atol=1e-5)
    assert found.kl[:2].abs().max() < 1e-5


def test_only_scored_tokens_are_measured_and_all_kept_ones_replaced(model, contexts):
    kept, scored = (
        slice(5, CTX_LEN - 1),
        torch.rand(N_CONTEXT, CTX_LEN - 6, generator=torch.Generator().manual_seed(2)) < 0.4,
    )
    scored[1] = False
    everything = splice(model, contexts, SITES[0], changes, kept=kept, progress=False)
    some = splice(model, contexts, SITES[0], changes, kept=kept, scored=scored, progress=False)
    torch.testing.assert_close(some.cross_entropy, everything.cross_entropy[:, scored.flatten()])
    assert torch.equal(some.context, everything.context[scored.flatten()])
    assert torch.equal(some.position, everything.position[scored.flatten()])


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_passes_and_blocks_of_logits_change_nothing(model, contexts, at_once, monkeypatch):
    kept = slice(5, CTX_LEN - 1)
    whole = splice(model, contexts, SITES[0], changes, kept=kept, progress=False)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 1)
    parts = splice(model, contexts, SITES[0], changes, kept=kept, at_once=at_once, progress=False)
    torch.testing.assert_close(parts.cross_entropy, whole.cross_entropy)
    torch.testing.assert_close(parts.kl, whole.kl, rtol=1e-4, atol=1e-5)


def test_the_layers_before_the_site_run_once_per_context_whatever_the_variants(model, contexts):
    def runs_of_first_block(variants):
        rows = []
        hook = ("blocks.0.hook_resid_post", lambda value, hook: rows.append(len(value)))
        with model.hooks(fwd_hooks=[hook]):
            splice(model, contexts, SITES[0], variants, kept=slice(5, 8), progress=False)
        return rows

    few, many = runs_of_first_block(changes), runs_of_first_block(lambda x, _: {str(i): x for i in range(20)})
    assert few == many == [1] * (N_CONTEXT + 1)  # one more: the plain run that checks the hand-over


@pytest.mark.parametrize("more", [2, 1.02])
def test_a_model_that_does_more_at_its_head_is_refused(model, contexts, monkeypatch, more):
    own = module.head_logits
    monkeypatch.setattr(module, "head_logits", lambda model, hidden: more * own(model, hidden))
    with pytest.raises(ValueError, match=r"splicing x itself in at blocks\.1\.hook_resid_post changes a token's loss"):
        splice(model, contexts, SITES[0], changes, kept=slice(5, 8), progress=False)


@pytest.mark.parametrize(("dtype", "most"), list(module.HAND_OVER.items()))
def test_no_rounding_explains_a_quarter_of_a_nat(dtype, most):
    """Half a token's loss in float16 or bfloat16 moves by tenths at most; float32 by a thousandth."""
    assert most <= (1e-3 if dtype in (torch.float32, torch.float64) else 0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hook_name": "blocks.9.hook_resid_post"}, r"no hook 'blocks\.9\.hook_resid_post'"),
        ({"kept": slice(5, CTX_LEN)}, "not the last, which has no next token"),
        ({"kept": slice(5, 5)}, "kept covers 0 positions"),
        ({"scored": torch.ones(2, 3, dtype=torch.bool)}, r"scored is torch.bool \(2, 3\); it must be bool \(3, 3\)"),
        ({"scored": torch.zeros(3, 3, dtype=torch.bool)}, "scored names no token"),
        ({"variants": lambda x, _: {"half": x[:, :16]}}, r"variant 'half' is \(3, 16\); it must be \(3, 32\)"),
        ({"variants": lambda x, _: {"original": x}}, "a variant is called 'original'"),
        ({"variants": lambda x, _: {"bad": x * torch.nan}}, "variant 'bad' at blocks.1.hook_resid_post, context 0"),
    ],
)
def test_a_wrong_input_is_named(model, contexts, change, message):
    arguments = {"hook_name": SITES[0], "variants": changes, "kept": slice(5, 8), "progress": False} | change
    with pytest.raises(ValueError, match=message):
        splice(model, contexts, **arguments)
