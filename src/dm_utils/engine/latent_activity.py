"""Where an SAE's latents are active in a text, and whether rules about tokens say so: automated interpretability of one SAE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dm_utils.engine.autointerp import (
    RuleExplainer,
    RuleScorer,
    Scores,
    accuracy,
    dealt_wrong,
    interpret,
    some_latents,
)
from dm_utils.engine.study import Site
from dm_utils.engine.text_windows import Activity, WindowPlan
from dm_utils.maths.encoding import encode
from dm_utils.maths.resampling import Estimate


def activity(
    sae: Any, blocks: Iterable[tuple[slice, Float[Tensor, "token d"]]], site: Site, plan: WindowPlan
) -> Activity:
    """Where an SAE's latents are active at a site's kept tokens; `blocks` gives what it reads, with the rows of the tokens.

    A latent with codes of either sign counts as two: j where it is positive, j + d_sae where it is negative.
    """
    rows, latents, values = [], [], []
    for block, x in blocks:
        code = encode(sae, x)
        rows.append(torch.arange(block.start, block.stop).repeat_interleave(code.l0.cpu()))
        latents.append((code.indices + sae.cfg.d_sae * (code.values < 0)).cpu())
        values.append(code.values.abs().cpu())
    row, latent, value = (torch.cat(pieces).numpy() for pieces in (rows, latents, values))
    return Activity(row, latent, value, site.token_id.numpy(), site.context.numpy(), site.position.numpy(), plan)


@dataclass(frozen=True)
class RuleScores:
    """How well token rules say when latents are active: balanced accuracy, mean over latents with 95 % intervals over latents.

    `own`: by each latent's own rule; `dealt`: by that of another latent, which is what the test gives for nothing; `tested`: the share of
    the drawn latents that have enough windows to be tested.
    """

    own: Estimate
    dealt: Estimate
    tested: float

    def columns(self) -> dict[str, float]:
        """As the columns rules, rules_dealt (each with _low and _high) and rules_tested."""
        return self.own.columns("rules") | self.dealt.columns("rules_dealt") | {"rules_tested": self.tested}


def rule_scores(activity: Activity, vocabulary: list[str], n_latents: int, seed: int = 0) -> RuleScores:
    """Learn a token rule for each of some latents, drawn at random of those alive, and test it on other contexts.

    Raises ValueError where no latent has enough windows to be tested.
    """
    drawn, scorer = some_latents(activity, n_latents, seed), RuleScorer()
    own = interpret(activity, RuleExplainer(vocabulary), scorer, drawn)
    dealt = dealt_wrong(activity, scorer, own)
    return RuleScores(_balanced(own), _balanced(dealt), len(own.latents) / len(drawn))


def _balanced(scores: Scores) -> Estimate:
    return Estimate.read(accuracy(scores).set_index("group").loc["balanced"])
