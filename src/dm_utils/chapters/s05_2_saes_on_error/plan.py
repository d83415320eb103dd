"""What Section 5.2's training runs have in common; checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

from dm_utils.base.errors import ParameterError, check_range


@dataclass(frozen=True)
class TrainingPlan:
    """Shape, budget and stopping rule, the same for every target.

    Attributes
    ----------
    d_sae, k : latents, and active latents per token (TopK).
    learning_rates : a ladder, walked from its middle until the lowest validation FVU has worse neighbours; each target takes its best.
    n_seeds : training runs per target.
    batch : rows per step.
    max_steps : steps at the full learning rate, the same for every run.
    check_every : steps between two looks at the validation FVU.
    patience, least_improvement : the rule. A run has converged when the validation FVU, averaged over the last `patience`
        of these steps, is less than this share below its average over the `patience` steps before.
    warm_up : steps over which the learning rate rises to its value.
    cool_down : steps after them, over which it falls to zero.
    n_validation : rows that the rule and the grid look at; none of them is trained on or reported.
    """

    d_sae: int = 512
    k: int = 16
    learning_rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
    n_seeds: int = 3
    batch: int = 1024
    max_steps: int = 2400
    check_every: int = 50
    patience: int = 500
    least_improvement: float = 0.02
    warm_up: int = 100
    cool_down: int = 600
    n_validation: int = 8192

    def __post_init__(self) -> None:
        check_range("d_sae", self.d_sae, 1, whole=True)
        check_range("k", self.k, 1, whole=True)
        if self.k > self.d_sae:
            raise ParameterError(f"k = {self.k}: it must be at most the number of latents, d_sae = {self.d_sae}")
        rates = self.learning_rates
        if not rates or not all(isinstance(lr, int | float) and lr > 0 for lr in rates):
            raise ParameterError(f"learning_rates is {list(rates)}; it must hold at least one number, all above 0")
        check_range("n_seeds", self.n_seeds, 1, whole=True)
        check_range("max_steps", self.max_steps, 2 * self.check_every, whole=True)
        check_range("patience", self.patience, self.check_every, whole=True)
        if self.patience > self.max_steps // 2:
            raise ParameterError(f"patience = {self.patience}: it must be at most half of max_steps = {self.max_steps}")
        check_range("cool_down", self.cool_down, self.check_every, whole=True)
