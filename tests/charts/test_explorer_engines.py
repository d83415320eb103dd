"""The page's engine and PyTorch give the same answer to every request, whatever the text."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
import torch
from explorer_page import SAES, TEXTS, Ask, same

from dm_utils.engine import explorer_contract as contract
from dm_utils.engine.explorer import Kernel


def compare(kernel: Kernel, ask: Ask, requests: list[dict[str, Any]]) -> None:
    for request, theirs in zip(requests, ask(requests), strict=True):
        contract.ANSWERS[request["kind"]].model_validate(theirs)
        same(kernel.answer(request), theirs, request["kind"])


def saes_for(name: str) -> tuple[str, ...]:
    """Every SAE, and one for the texts that are about their length."""
    return SAES[:1] if len(TEXTS[name]) > 10_000 else SAES


@pytest.mark.parametrize("name", TEXTS)
def test_the_split_of_every_token_agrees(kernel: Kernel, ask: Ask, name: str) -> None:
    compare(kernel, ask, [{"kind": "decompose", "text": TEXTS[name], "sae": sae} for sae in saes_for(name)])


def places(kernel: Kernel, text: str) -> list[int]:
    last = len(kernel.encode(text)[0]) - 1
    return sorted({0, last // 2, last})


@pytest.mark.parametrize("name", ["A docstring", "empty", "markup", "right to left", "byte fallback", "emoji"])
def test_what_is_behind_a_token_agrees(kernel: Kernel, ask: Ask, name: str) -> None:
    text = TEXTS[name]
    compare(
        kernel,
        ask,
        [{"kind": "look", "text": text, "sae": sae, "position": t} for sae in SAES for t in places(kernel, text)],
    )


@pytest.mark.parametrize("name", ["Code", "empty", "special tokens", "very long", "Other scripts"])
def test_interventions_agree(kernel: Kernel, ask: Ask, name: str) -> None:
    text, requests = TEXTS[name], []
    for sae in saes_for(name):
        position = places(kernel, text)[-1] // 2
        view = kernel.answer({"kind": "look", "text": text, "sae": sae, "position": position})
        latents = {str(one["latent"]): factor for one, factor in zip(view["latents"], (0.0, 2.5), strict=False)}
        base = {"kind": "intervene", "text": text, "sae": sae, "position": position}
        requests += [base, base | {"everywhere": False, "linear": 1.0, "nonlinear": 1.0}]
        requests.append(base | {"linear": 0.35, "nonlinear": 0.8, "latents": latents})
    compare(kernel, ask, requests)


def test_the_books_own_contexts_agree(kernel: Kernel, ask: Ask) -> None:
    compare(kernel, ask, [{"kind": "context", "index": index} for index in (0, 7, 23)])


def test_every_token_decodes_to_the_same_text(kernel: Kernel, ask: Ask) -> None:
    decode, size = kernel.study.tokenizer.decode, len(kernel.study.tokenizer)
    pairs = [[i] for i in range(size)] + [[i, (7 * i + 300) % size] for i in range(0, size, 5)]
    theirs = ask([{"kind": "decode", "ids": ids} for ids in pairs])
    assert theirs == [decode(ids) for ids in pairs]


def test_every_kind_of_character_is_split_into_the_same_tokens(kernel: Kernel, ask: Ask) -> None:
    """Every assigned character of the first two planes, 512 at a time, between letters, digits and spaces."""
    letters = [chr(i) for i in range(1, 0x20000) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
    texts = [" a".join(letters[i : i + 512]) for i in range(0, len(letters), 512)]
    encode = kernel.study.tokenizer
    for text, theirs in zip(texts, ask([{"kind": "encode", "text": text} for text in texts]), strict=True):
        assert theirs["ids"] == encode(text)["input_ids"]


def test_all_of_the_error_put_back_changes_nothing(kernel: Kernel, ask: Ask) -> None:
    request = {
        "kind": "intervene",
        "text": TEXTS["Code"],
        "sae": SAES[0],
        "position": 9,
        "linear": 1.0,
        "nonlinear": 1.0,
    }
    for answer in (kernel.answer(request), *ask([request])):
        assert answer["mean_kl"] == pytest.approx(0, abs=1e-6)


def test_the_parts_add_up_to_the_activation(kernel: Kernel) -> None:
    vectors = kernel.split(TEXTS["Code"], SAES[1]).vectors
    assert torch.allclose(vectors["sae"] + vectors["linear"] + vectors["nonlinear"], vectors["x"], atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"kind": "decompose", "text": "a", "sae": "resid_9"}, "resid_9"),
        ({"kind": "look", "text": "a", "sae": SAES[0], "position": 40}, "position = 40: this text has tokens 0"),
        ({"kind": "context", "index": 4000}, "context = 4000: it must be from 0 to 23"),
        ({"kind": "intervene", "text": "a", "sae": SAES[0], "position": 0, "latents": {"9999": 0}}, "latent '?9999"),
    ],
)
def test_what_is_not_there_is_refused_by_both(kernel: Kernel, ask: Ask, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel.answer(request_)
    (theirs,) = ask([request_])
    assert theirs.keys() == {"error"}
    with pytest.raises(ValueError, match=message):
        raise ValueError(theirs["error"])
