"""What many tests need: one small study of the lab, measured once per session."""

import pytest

from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.world.profiles import load_profile


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """The lab on 24 contexts with a store of its own. Tests read it; one that needs other sizes, or breaks things, makes its own."""
    profile = load_profile("lab", n_contexts=24, n_bootstrap=200)
    return Study(profile, Store(tmp_path_factory.mktemp("store")))
