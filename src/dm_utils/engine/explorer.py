"""The explorer's engine in a kernel: PyTorch answers what the front end asks, for any profile and any SAE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from dm_utils.base.errors import ParameterError, require
from dm_utils.engine import explorer_contract as contract
from dm_utils.engine import explorer_fits as fits
from dm_utils.engine.splice import head_logits
from dm_utils.maths.encoding import encode, reconstruct
from dm_utils.world import models, saes

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

KEPT = 4  # texts and SAEs whose vectors stay in memory


@dataclass(frozen=True)
class Split:
    """One text under one SAE: its ids [token], every vector [token, d] by name, and the SAE's latents [token, d_sae]."""

    ref: SaeRef
    ids: Int[Tensor, " token"]
    vectors: dict[str, Float[Tensor, "token d"]]
    latents: Float[Tensor, "token d_sae"]  # sparse: the length of what each latent writes
    directions: Float[Tensor, "d_sae d"]


class Recent(OrderedDict[Any, Any]):
    """The results of the last few calls."""

    def get_or(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The kept result, or a new one."""
        if key not in self:
            self[key] = compute()
        self.move_to_end(key)
        while len(self) > KEPT:
            self.popitem(last=False)
        return self[key]


class Kernel:
    """Answer the requests of `explorer_contract` for one study.

    >>> Kernel(dm.Study("lab")).answer({"kind": "decompose", "text": "Return a list.", "sae": "resid_4_topk_2048_l0_4"})
    """

    def __init__(self, study: Study):
        self.study, self._splits, self._saes = study, Recent(), Recent()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer as JSON. Raises ParameterError for an SAE, a context or a position that is not there."""
        wanted = contract.REQUEST.validate_python(dict(request))
        with torch.inference_mode():
            return getattr(self, f"_{wanted.kind}")(wanted)

    @cached_property
    def refs(self) -> dict[str, SaeRef]:
        """Every SAE of the profile, by id."""
        found = [saes.catalog(self.study.profile, component) for component in self.study.profile.releases]
        return {ref.id: ref for some in found for ref in some}

    def _describe(self, _: contract.Describe) -> dict[str, Any]:
        p = self.study.profile
        about = ("id", "layer", "component", "architecture", "d_sae", "l0")
        entries = [{name: getattr(ref, name) for name in about} | {"size": 0} for ref in self.refs.values()]
        answer: dict[str, Any] = {"profile": p.name, "title": p.title, "default": self.study.sae().id, "saes": entries}
        answer |= {"skip": p.skip, "n_contexts": p.n_contexts, "max_tokens": contract.MAX_TOKENS}
        return answer | {"examples": contract.EXAMPLES, "size": 0}

    def _context(self, request: contract.Context) -> dict[str, Any]:
        if not 0 <= request.index < len(self.study.contexts):
            raise ParameterError(f"context = {request.index}: it must be from 0 to {len(self.study.contexts) - 1}")
        ids = self.study.contexts[request.index, 1 : contract.MAX_TOKENS // 2]
        return {"text": self.study.tokenizer.decode(ids.tolist())}

    # --- one text ------------------------------------------------------------------------------------------

    def encode(self, text: str) -> tuple[Int[Tensor, " token"], bool]:
        """Token ids, BOS first, and whether the text had more."""
        tokenizer = self.study.tokenizer
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # as a browser sends it on
        ids = tokenizer(text[: contract.MAX_CHARACTERS], add_special_tokens=False, verbose=False)["input_ids"]
        bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        ids = [bos, *ids]
        cut = len(ids) > contract.MAX_TOKENS or len(text) > contract.MAX_CHARACTERS
        return torch.tensor(ids[: contract.MAX_TOKENS]), cut

    def split(self, text: str, sae: str) -> Split:
        """Every vector of a text under an SAE."""
        require(sae, self.refs, "SAE")
        return self._splits.get_or((text, sae), lambda: self._split(text, self.refs[sae]))

    def _split(self, text: str, ref: SaeRef) -> Split:
        ids, sae = self.encode(text)[0], self._saes.get_or(ref.id, lambda: self.study.load_sae(ref))
        batch = next(models.activations(self.study.model, ids[None], [ref.hook_name], 1))
        x = batch[ref.hook_name][0].to(sae.W_dec.dtype)
        code, out = encode(sae, x), reconstruct(sae, x)
        token = torch.repeat_interleave(torch.arange(len(x), device=x.device), code.l0)
        values = fits.lengths(sae, code.indices, code.values)
        latents = torch.zeros(len(x), ref.d_sae, device=x.device, dtype=x.dtype)
        latents[token, code.indices] = values
        linear = self.study.error_map(ref)(x)
        vectors = dict(zip(contract.VECTORS, (x, out, x - out, linear, x - out - linear), strict=True))
        return Split(ref, ids, vectors, latents, functional.normalize(sae.W_dec, dim=-1))

    def log_p(self, split: Split, vectors: Float[Tensor, "token d"] | None = None) -> Float[Tensor, "token vocab"]:
        """ln p(next token), as the model is or with `vectors` in the place of x at every token but BOS."""
        found: dict[str, Tensor] = {}

        def put(value: Tensor, *, hook: object) -> Tensor:
            if vectors is None:
                return value
            value = value.clone()
            value[0, 1:] = vectors[1:].to(value.dtype).view_as(value[0, 1:])
            return value

        def keep(value: Tensor, *, hook: object) -> None:
            found["hidden"] = value

        model = self.study.model
        hooks: list[tuple[Any, Any]] = [(split.ref.hook_name, put), ("unembed.hook_in", keep)]
        model.run_with_hooks(split.ids[None].to(model.cfg.device), return_type=None, fwd_hooks=hooks)
        return head_logits(model, found["hidden"])[0].log_softmax(-1)

    def _decompose(self, request: contract.Decompose) -> dict[str, Any]:
        split = self.split(request.text, request.sae)
        fitted = {name: torch.from_numpy(array) for name, array in fits.fitted(self.study, split.ref).items()}
        x, after = split.vectors["x"].cpu(), split.ids[1:, None]
        columns = {f"{name}_norm2": (vector**2).sum(-1) for name, vector in split.vectors.items()}
        columns["variance"] = ((x - fitted["mean"]) ** 2).sum(-1)
        columns["l0"] = (split.latents > 0).sum(-1)
        columns["probe"] = x @ fitted["probe"] + fitted["probe_intercept"]
        columns["lookup"] = fitted["lookup"][split.ids]
        for name, vectors in {"loss": None, "loss_spliced": split.vectors["sae"]}.items():
            columns[name] = -self.log_p(split, vectors)[:-1].cpu().gather(-1, after)[:, 0]
        numbers = {name: column.tolist() for name, column in columns.items()}
        return {"tokens": self.study.token_text(split.ids), "truncated": self.encode(request.text)[1]} | numbers

    # --- one token -----------------------------------------------------------------------------------------

    def _look(self, request: contract.Look) -> dict[str, Any]:
        split, t = self.split(request.text, request.sae), request.position
        self._check(split, t)
        rows = torch.stack([vectors[t] for vectors in split.vectors.values()])
        unit = functional.normalize(rows, dim=-1)
        value, latent = split.latents[t].topk(min(contract.LATENTS, split.latents.shape[1]))
        error = unit[contract.VECTORS.index("error")]
        latents = [
            self._latent(split, i, v, float(split.directions[i] @ error))
            for i, v in zip(latent.tolist(), value.tolist(), strict=True)
            if v > 0
        ]
        answer = {"norms": rows.norm(dim=-1).tolist(), "cosines": (unit @ unit.T).tolist(), "latents": latents}
        return answer | self._neighbours(split, t)

    def _latent(self, split: Split, latent: int, value: float, cosine: float) -> dict[str, Any]:
        found = fits.strongest(self.study, split.ref)
        rows = zip(*(found[name][latent].tolist() for name in ("context", "position", "value")), strict=True)
        contexts = [self.excerpt(c, p) | {"value": v} for c, p, v in rows if v > 0]
        writes: list[dict[str, Any]] = []
        if split.ref.component != "att":  # what enters the projection is no direction of the residual stream
            top = (self.unembedding @ split.directions[latent].to(self.unembedding)).topk(contract.WRITES)
            tokens = self.study.token_text(top.indices.cpu())
            writes = [{"token": s, "weight": w} for s, w in zip(tokens, top.values.tolist(), strict=True)]
        return {"latent": latent, "value": value, "cosine": cosine, "contexts": contexts, "writes": writes}

    @cached_property
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        """The unembedding after the final norm's gain, whatever kind of norm it is: of ±s with |s_i| = 1 it gives ±gain·s + bias."""
        head = self.study.model.original_model
        matrix = head.get_output_embeddings().weight.detach()
        sign = torch.ones(matrix.shape[1], device=matrix.device, dtype=matrix.dtype)
        sign[1::2] = -1
        norm = self.study.model.ln_final
        gain = (norm(sign[None, None]) - norm(-sign[None, None]))[0, 0] / (2 * sign)
        return matrix * gain

    def excerpt(self, context: int, position: int) -> dict[str, str]:
        """A token of one of the study's contexts and the text around it."""
        ids, decode = self.study.contexts[context].tolist(), self.study.tokenizer.decode
        before = ids[max(0, position - contract.BEFORE) : position]
        after = ids[position + 1 : position + 1 + contract.AFTER]
        return {"before": decode(before), "token": decode([ids[position]]), "after": decode(after)}

    def _neighbours(self, split: Split, t: int) -> dict[str, Any]:
        """The nearest tokens by nonlinear error, in this text (not BOS, not itself) and in the study's."""
        nonlinear = functional.normalize(split.vectors["nonlinear"], dim=-1)
        near = nonlinear @ nonlinear[t]
        near[[0, t]] = -torch.inf
        here = near.topk(min(contract.NEIGHBOURS, len(near)))
        pairs = zip(here.indices.tolist(), here.values.tolist(), strict=True)
        pool = fits.pool(self.study, split.ref.layer, split.ref.component)
        far = functional.normalize(self._pool_errors(split.ref, pool), dim=-1) @ nonlinear[t]
        there = far.topk(min(contract.NEIGHBOURS, len(far)))
        rows = [(int(pool["context"][i]), int(pool["position"][i])) for i in there.indices.tolist()]
        found = [self.excerpt(*row) | {"cosine": c} for row, c in zip(rows, there.values.tolist(), strict=True)]
        return {"here": [{"position": i, "cosine": c} for i, c in pairs if c > -2], "there": found}

    def _pool_errors(self, ref: SaeRef, pool: Mapping[str, Any]) -> Float[Tensor, "token d"]:
        def compute() -> Tensor:
            sae = self._saes.get_or(ref.id, lambda: self.study.load_sae(ref))
            x = torch.from_numpy(pool["x"]).to(sae.W_dec)
            return x - reconstruct(sae, x) - self.study.error_map(ref)(x)

        return self._splits.get_or(("pool", ref.id), compute)

    def _intervene(self, request: contract.Intervene) -> dict[str, Any]:
        split, t = self.split(request.text, request.sae), request.position
        self._check(split, t)
        vectors = self.spliced(split, request)
        before, after = (self.log_p(split, v).cpu() for v in (None, vectors))
        kl = (before.exp() * (before - after)).sum(-1)
        changed = kl[1:] if request.everywhere else kl[t:]
        answer: dict[str, Any] = {"kl": float(kl[t]), "mean_kl": float(changed.mean()) if len(changed) else 0.0}
        for name, log_p in {"before": before, "after": after}.items():
            top = log_p[t].topk(min(contract.NEXT, log_p.shape[1])).indices
            columns = (self.study.token_text(top), before[t, top].exp().tolist(), after[t, top].exp().tolist())
            answer[name] = [{"token": s, "before": b, "after": a} for s, b, a in zip(*columns, strict=True)]
            last = t + 1 == len(split.ids)
            answer[f"loss_{name}"] = None if last else -float(log_p[t, split.ids[t + 1]])
        return answer

    def spliced(self, split: Split, request: contract.Intervene) -> Float[Tensor, "token d"]:
        """What takes the place of x."""
        parts = split.vectors
        vectors = parts["sae"] + request.linear * parts["linear"] + request.nonlinear * parts["nonlinear"]
        for name, factor in request.latents.items():
            if not name.isdigit() or int(name) >= split.ref.d_sae:
                raise ParameterError(f"latent {name!r}: {split.ref.id} has latents 0 to {split.ref.d_sae - 1}")
            vectors = vectors + (factor - 1) * split.latents[:, int(name), None] * split.directions[int(name)]
        if request.everywhere:
            return vectors
        alone = parts["x"].clone()
        alone[request.position] = vectors[request.position]
        return alone

    @staticmethod
    def _check(split: Split, position: int) -> None:
        if not 0 <= position < len(split.ids):
            raise ParameterError(f"position = {position}: this text has tokens 0 (BOS) to {len(split.ids) - 1}")
