"""Section 5.2 for one SAE of a study: SAEs trained on its two error parts and on their Gaussian twins, measured and explained.

For the lab, finished runs are shipped: see `shipped`.
"""

from __future__ import annotations

from functools import cached_property

import pandas as pd
import torch

from dm_utils.chapters.s05_2_saes_on_error.shipped import COMMAND, ShippedRuns
from dm_utils.chapters.s05_2_saes_on_error.training import TARGETS
from dm_utils.engine.latent_activity import activity
from dm_utils.engine.text_windows import Activity, WindowPlan
from dm_utils.maths.decomposition import total_variance
from dm_utils.maths.encoding import reconstruct
from dm_utils.maths.resampling import Bootstrap, Estimate, HeldOutSums, Sums
from dm_utils.world import corpus


class ErrorSaeStudy(ShippedRuns):
    """The experiment: the trained SAEs' loss curves, their held-out FVU, and the activity of their latents."""

    def curves(self) -> pd.DataFrame:
        """Loss curves of every reported run: target, seed, lr, step, train_fvu, validation_fvu."""
        parts = []
        for target, seed in self.runs():
            data = self.run(target, seed)[0]
            parts.append(pd.DataFrame(data["curve"]).assign(target=target, seed=seed, lr=data["lr"]))
        return pd.concat(parts, ignore_index=True)

    def provenance(self) -> str:
        """Says where the trained SAEs come from, and what that means for the numbers."""
        texts = []
        for target, seed in self.runs():
            recipe = self.recipe(target, lr=self.run(target, seed)[0]["lr"], seed=seed)
            found = self.from_shipped("error_sae", recipe)
            texts += [found[0]["text"]] if found else []
        n = self.plan.n_seeds * len(TARGETS)
        if len(texts) < n:
            return f"{n - len(texts)} of these {n} SAEs were trained by this study and are kept in its store."
        said = (
            f"These {n} SAEs were trained beforehand and are shipped with the book; every number below is measured now. "
            f"`{COMMAND} train` trains again what a change of their recipe makes out of date."
        )
        if set(texts) != {corpus.identity(self.study.profile)}:
            said += (
                " They were trained on another version of this text, so some held-out tokens may have trained them: FVUs may be too "
                "low by up to the gap between training and validation tokens given below."
            )
        return said

    def _sums(self, target: str) -> Sums:
        """Per-context sums over the held-out tokens: the target, every seed's residual, that of k principal components."""
        site, like = self.study.site(self.ref.layer, self.ref.component), self.moments(target.split("_")[0])
        sums, saes = HeldOutSums(site.split), [self.sae(target, seed) for seed in range(self.plan.n_seeds)]
        principal = like.principal(self.plan.k)
        with torch.no_grad():
            for rows, y in self.stream(target, "test").blocks(site.design.block):
                centred = y - like.mean.to(y.device, y.dtype)
                basis = principal.to(y.device, y.dtype)
                held_out = ~site.split.fit[rows].to(y.device)
                residual2 = y.new_zeros(len(y), len(saes))
                for seed, sae in enumerate(saes):
                    residual2[held_out, seed] = (y[held_out] - reconstruct(sae, y[held_out])).square().sum(-1)
                dense2 = (centred - centred @ basis @ basis.T).square().sum(-1)
                sums.add(rows, x=centred, x2=centred**2, residual2=residual2, dense2=dense2)
        return sums.totals

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        merged: Sums = {}
        for target in TARGETS:
            sums = self._sums(target)
            merged |= {f"{target}.{name}": total for name, total in sums.items()} | {"n": sums["n"]}
        profile = self.study.profile
        return Bootstrap(merged, profile.n_bootstrap, profile.seed)

    def fvu(self, target: str, seed: int | None = None) -> Estimate:
        """Held-out FVU of a target's SAE: of one seed, or the mean over seeds."""
        return self._bootstrap.estimate(lambda sums: _fvu(sums, target, seed))

    def fvu_gap(self, a: str, b: str) -> Estimate:
        """Mean held-out FVU of target `a` minus that of `b`, resampled together."""
        return self._bootstrap.estimate(lambda sums: _fvu(sums, a, None) - _fvu(sums, b, None))

    def fvu_contrast(self, first: tuple[str, str], second: tuple[str, str]) -> Estimate:
        """The FVU gap of one pair of targets minus that of another, resampled together."""
        (a, b), (c, d) = first, second
        return self._bootstrap.estimate(
            lambda sums: _fvu(sums, a, None) - _fvu(sums, b, None) - _fvu(sums, c, None) + _fvu(sums, d, None)
        )

    def table(self) -> pd.DataFrame:
        """One row per run: target, seed, lr, improvement (see the rule), converged, fvu, fvu_low, fvu_high."""
        rows = []
        for target, seed in self.runs():
            data, fvu = self.run(target, seed)[0], self.fvu(target, seed)
            rows.append({"target": target} | {name: data[name] for name in ("seed", "lr", "improvement")})
            rows[-1] |= {"converged": data["improvement"] < self.plan.least_improvement}
            rows[-1] |= fvu.columns("fvu")
        return pd.DataFrame(rows)

    def dense_fvu(self, target: str) -> Estimate:
        """Held-out FVU of k fixed directions: the principal components of the error part on the fitting tokens."""
        return self._bootstrap.estimate(lambda sums: _fvu(sums, target, None, "dense2"))

    def inherited_fvu(self) -> Estimate:
        """FVU of b* · Sae(x) as a reconstruction of LinearError(x): the first SAE's own latents, nothing trained.

        LinearError is an affine image of x, so the image of a sparse code of x is a sparse code of it, with the same L0.
        """
        sums, mean = HeldOutSums(self.study.site(self.ref.layer, self.ref.component).split), self.moments("linear").mean
        for rows, x, sae_out in self.study.reconstructions(self.ref):
            y = self._error_map(x.to(sae_out.device))
            centred = y - mean.to(y.device, y.dtype)
            residual2 = (y - self._error_map(sae_out)).square().sum(-1)
            sums.add(rows, x=centred, x2=centred**2, residual2=residual2)
        profile = self.study.profile
        bootstrap = Bootstrap(sums.totals, profile.n_bootstrap, profile.seed)
        return bootstrap.estimate(lambda sums: sums["residual2"].sum(-1) / total_variance(sums))

    def activity(self, part: str, plan: WindowPlan, trained_on: str | None = None, seed: int = 0) -> Activity:
        """Where the latents of an SAE are active on an error part; `trained_on` names another target's SAE (a control)."""
        site, sae = self.study.site(self.ref.layer, self.ref.component), self.sae(trained_on or part, seed)
        return activity(sae, self.stream(part, "test").blocks(site.design.block), site, plan)


def _fvu(sums: Sums, target: str, seed: int | None, residual: str = "residual2") -> torch.Tensor:
    """Σ‖y − Sae(y)‖² / Σ‖y − mean‖² [draw]."""
    of = {name: sums[f"{target}.{name}"] for name in ("n", "x", "x2", residual)}
    residual2 = of[residual].mean(-1) if seed is None else of[residual][:, seed]
    return residual2 / total_variance(of)
