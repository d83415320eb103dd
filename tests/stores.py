"""Stores that begin with a part of what another one holds, so that a test computes only what it is about."""

import os
import shutil
from pathlib import Path

from dm_utils.engine.store import Store

READ = ("contexts", "activations")  # what a study reads and runs its model for


def sharing(store: Store, folder: Path, *kinds: str) -> Store:
    """A new store in which results of some kinds are those of another; files are replaced, never changed, so links do."""
    for kind in kinds:
        if (store.root / kind).exists():
            hidden = shutil.ignore_patterns("*.lock", ".*")  # of others at work there
            shutil.copytree(store.root / kind, folder / kind, ignore=hidden, copy_function=os.link)
    return Store(folder)
