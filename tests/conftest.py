"""What many tests need, once per session: a small study of the lab, and a browser."""

import os
from collections.abc import Iterator

import pytest
from careless import rounding_product
from hypothesis import settings
from playwright.sync_api import Browser
from site_browser import launch

from dm_utils.engine.store import Store
from dm_utils.engine.study import Study
from dm_utils.maths import products
from dm_utils.world.profiles import load_profile

# The same examples on every machine and in every order, however slow it is; nothing is remembered from run to run.
settings.register_profile("book", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("book")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The lab on 24 contexts with a store of its own. Tests read it; one that needs other sizes, or breaks things, makes its own."""
    profile = load_profile("lab", n_contexts=24, n_bootstrap=200)
    base = tmp_path_factory.getbasetemp()
    run = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base  # workers share what one of them has computed
    return Study(profile, Store(run / "study"))


@pytest.fixture
def careless_product(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose low-precision products round their partial sums to bfloat16 after every 32 terms."""
    products._accumulates.cache_clear()
    monkeypatch.setattr(products, "product", rounding_product)
    yield
    products._accumulates.cache_clear()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests: Playwright runs once in a process."""
    with launch() as chromium:
        yield chromium
