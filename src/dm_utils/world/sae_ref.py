"""One SAE that a profile can study: where it is, where it sits, and what identifies it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dm_utils.world import hub
from dm_utils.world.profile import Component


@dataclass(frozen=True)
class SaeRef:
    """One SAE that a profile can study: where it is, where it sits, and its label's width and L0.

    `repo` is the hub's repository of a SAELens release, `revision` the commit, tag or branch that was asked for.
    """

    release: str
    id: str
    component: Component
    layer: int
    hook_name: str
    architecture: str
    d_sae: int
    l0: float
    revision: str = ""
    repo: str = ""

    @property
    def name(self) -> str:
        """The id within its release; `id` starts with the release where two releases of a profile use the same id."""
        return self.id.removeprefix(f"{self.release}/")

    @property
    def commit(self) -> str:
        """The commit of the SAE's repository on the hub; for an SAE of a local folder, a digest of its files."""
        return hub.commit(self.repo, self.revision or None) if self.repo else self.revision

    def key(self) -> dict[str, Any]:
        """What identifies the SAE in a result's key."""
        known = {name: value for name, value in asdict(self).items() if name != "repo"}
        return known | {"revision": self.commit}
