"""Interpretability without a language model: whether rules about tokens say when a dictionary's latents are active."""

from __future__ import annotations

from pathlib import Path

import torch

from dm_utils.chapters.dictionaries.measure import reference
from dm_utils.engine.latent_activity import activity, rule_scores
from dm_utils.engine.study import Study
from dm_utils.engine.text_windows import WindowPlan

LATENTS = 300  # of each dictionary, drawn at random of those alive
PLAN = WindowPlan(per_decile=2)  # as Section 5.2's, with fewer test windows: at a small L0 few latents have more


def row(study: Study, folder: Path) -> dict[str, float]:
    """The scores of the SAE in a folder, as `RuleScores.columns`, on the study's text; half of its contexts explain, half test."""
    ref = reference(folder)
    site = study.site(ref.layer)
    found = activity(study.load_sae(ref), site.design.blocks(), site, PLAN)
    vocabulary = study.token_text(torch.arange(len(study.tokenizer)))
    return rule_scores(found, vocabulary, LATENTS, study.profile.seed).columns()
