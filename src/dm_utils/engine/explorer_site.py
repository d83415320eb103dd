"""Write what the explorer's page fetches: model, tokenizer, SAEs and their fits, contexts, and its first answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from dm_utils.base.errors import ParameterError
from dm_utils.base.files import write_atomic
from dm_utils.engine import explorer_contract as contract
from dm_utils.engine import explorer_fits as fits
from dm_utils.engine.explorer import Kernel
from dm_utils.world import models

if TYPE_CHECKING:
    from dm_utils.engine.study import Study
    from dm_utils.world.sae_ref import SaeRef

ARCHITECTURES = {"topk", "jumprelu"}  # that the page's own engine knows
LIMITS = {
    "latents": contract.LATENTS,
    "writes": contract.WRITES,
    "neighbours": contract.NEIGHBOURS,
    "next": contract.NEXT,
    "before": contract.BEFORE,
    "after": contract.AFTER,
}


def write_site(
    study: Study, folder: Path, refs: Sequence[SaeRef] | None = None, first: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the data of the page's own engine into `folder` and return its manifest.

    Every file's name holds a digest of its content, so that a browser may keep it; `manifest.json` names them.

    Parameters
    ----------
    refs : the SAEs to offer; by default those of the residual stream at every layer.
    first : the `text`, `sae` and `position` that a fresh page shows; by default the first example, the profile's own SAE
        and the token with the largest share of nonlinear error.

    Raises
    ------
    ParameterError : the model is not of Gemma 2's shape, or an SAE is one that the page's engine does not know.
    """
    refs = [ref for ref in study.saes(layer="all")] if refs is None else list(refs)
    _check(study, refs)
    kernel, source = Kernel(study), models.model_path(study.profile)
    about = kernel.answer({"kind": "describe"})
    words = (source / "tokenizer.json").read_bytes()
    manifest: dict[str, Any] = {"about": {name: value for name, value in about.items() if name != "saes"}}
    manifest["limits"], manifest["max_characters"] = LIMITS, contract.MAX_CHARACTERS
    weights = _put(folder, "model", "safetensors", (source / "model.safetensors").read_bytes())
    manifest["model"] = weights | {"config": json.loads((source / "config.json").read_text())}
    manifest["tokenizer"] = _put(folder, "tokenizer", "json", _compact(json.loads(words)))
    manifest["about"]["size"] = manifest["model"]["size"] + manifest["tokenizer"]["size"]
    manifest["corpus"] = _put_arrays(folder, "contexts", {"contexts": study.contexts.numpy().astype(np.uint16)})
    pools = {layer: _put_arrays(folder, f"pool_{layer}", fits.pool(study, layer)) for layer in {r.layer for r in refs}}
    manifest["saes"] = [_entry(study, folder, ref) | {"pool": pools[ref.layer]} for ref in refs]
    write_atomic(folder / "manifest.json", _compact(manifest))
    write_atomic(folder / "recorded.json", _compact(recorded(kernel, manifest, first or {})))
    _remove_others(folder, manifest)
    return manifest


def _remove_others(folder: Path, manifest: dict[str, Any]) -> None:
    """Leave no file of an earlier run behind."""
    entries = [entry[part] for entry in manifest["saes"] for part in ("weights", "fitted", "strongest", "pool")]
    entries += [manifest[part] for part in ("model", "tokenizer", "corpus")]
    kept = {entry["file"] for entry in entries} | {"manifest.json", "recorded.json"}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def recorded(kernel: Kernel, manifest: dict[str, Any], first: Mapping[str, Any]) -> list[list[Any]]:
    """The requests that a fresh page makes and their answers, so that it has something to say before it fetches any weight."""
    about = manifest["about"] | {"saes": [entry["about"] for entry in manifest["saes"]]}
    text, sae = first.get("text", next(iter(contract.EXAMPLES.values()))), first.get("sae", about["default"])
    tokens = kernel.answer({"kind": "decompose", "text": text, "sae": sae})
    share = np.array(tokens["nonlinear_norm2"]) / np.array(tokens["variance"])
    striking = int(share[1:-1].argmax()) + 1 if len(share) > 2 else len(share) - 1  # as the front end chooses
    position = min(first.get("position", striking), len(share) - 1)
    pairs = [[{"kind": "describe"}, about]]
    for kind in ("decompose", "look", "intervene"):
        request = {"kind": kind, "text": text, "sae": sae} | ({"position": position} if kind != "decompose" else {})
        full = contract.REQUEST.validate_python(request).model_dump()
        pairs.append([full, kernel.answer(full)])
    return pairs


def _check(study: Study, refs: Sequence[SaeRef]) -> None:
    config = json.loads((models.model_path(study.profile) / "config.json").read_text())
    if config.get("model_type") != "gemma2":
        raise ParameterError(
            f"{study.profile.model} is a {config.get('model_type')} model; the page's own engine computes gemma2 only. "
            "In a notebook, `charts.explore.explore` computes any model with PyTorch"
        )
    for ref in refs:
        if ref.architecture not in ARCHITECTURES or ref.component != "resid":
            raise ParameterError(
                f"{ref.id} is a {ref.architecture} SAE at {ref.hook_name}; the page's own engine computes "
                f"{' and '.join(sorted(ARCHITECTURES))} SAEs of the residual stream"
            )


def _entry(study: Study, folder: Path, ref: SaeRef) -> dict[str, Any]:
    """The files of one SAE, and what the engine must know of its configuration."""
    sae = study.load_sae(ref)
    path = folder_of(ref)
    names = ("architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm")
    config = {name: getattr(sae.cfg, name) for name in names if hasattr(sae.cfg, name)} | {
        "architecture": ref.architecture
    }
    weights = _put(folder, ref.id, "safetensors", (path / "sae_weights.safetensors").read_bytes())
    fitted = _put_arrays(folder, f"{ref.id}_fits", fits.fitted(study, ref))
    strongest = _put_arrays(folder, f"{ref.id}_strongest", fits.strongest(study, ref))
    about = {name: getattr(ref, name) for name in ("id", "layer", "component", "architecture", "d_sae", "l0")}
    about["size"] = weights["size"] + fitted["size"]
    return {"about": about, "config": config, "weights": weights, "fitted": fitted, "strongest": strongest}


def folder_of(ref: SaeRef) -> Path:
    """The folder of an SAE that is on this machine."""
    if ref.release == "lab":
        from dm_utils.lab import weights_path

        return weights_path() / "saes" / ref.name
    return Path(ref.release).expanduser() / ref.name


def _put(folder: Path, name: str, suffix: str, data: bytes) -> dict[str, Any]:
    file = f"{name}.{hashlib.sha256(data).hexdigest()[:12]}.{suffix}"
    if not (folder / file).exists():
        write_atomic(folder / file, data)
    return {"file": file, "size": len(data)}


def _put_arrays(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return _put(folder, name, "safetensors", save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))


def _compact(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
