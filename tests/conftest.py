"""What many tests need, once per session: a small study of the lab, the explorer's two engines, and a browser.

Heavy libraries are imported by the fixtures that use them, so that a test which needs none starts at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from explorer_page import Ask
    from playwright.sync_api import Browser

    from dm_utils.engine.explorer import Kernel
    from dm_utils.engine.study import Study

# The same examples on every machine and in every order, however slow it is; nothing is remembered from run to run.
settings.register_profile("book", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("book")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The lab on 24 contexts with a store of its own. Tests read it; one that needs other sizes, or breaks things, makes its own."""
    from dm_utils.engine.store import Store
    from dm_utils.engine.study import Study
    from dm_utils.world.profiles import load_profile

    profile = load_profile("lab", n_contexts=24, n_bootstrap=200)
    base = tmp_path_factory.getbasetemp()
    run = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base  # workers share what one of them has computed
    return Study(profile, Store(run / "study"))


@pytest.fixture
def careless_product(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose low-precision products round their partial sums to bfloat16 after every 32 terms."""
    from caches import forget
    from careless import rounding_product

    from dm_utils.maths import products

    forget(products)
    monkeypatch.setattr(products, "product", rounding_product)
    yield
    forget(products)


@pytest.fixture(scope="session")
def kernel(study: Study) -> Kernel:
    """The explorer's side in PyTorch, on the small study."""
    from dm_utils.engine.explorer import Kernel

    return Kernel(study)


@pytest.fixture(scope="session")
def data(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of files that the explorer's page fetches."""
    from explorer_page import SAES

    from dm_utils.engine.explorer_site import write_site

    folder = tmp_path_factory.mktemp("data")
    write_site(kernel.study, folder, [kernel.refs[name] for name in SAES])
    return folder


@pytest.fixture(scope="session")
def ask(data: Path) -> Iterator[Ask]:
    """The explorer's side in the page: the answers of its engine, run by node, to a list of requests."""
    from explorer_page import page_engine

    with page_engine(data) as ask:
        yield ask


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests: Playwright runs once in a process."""
    from site_browser import launch

    with launch() as chromium:
        yield chromium
