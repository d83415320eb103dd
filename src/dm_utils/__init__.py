"""Decompose, measure and explore what sparse autoencoders leave unexplained.

Names resolve on first use, so that ``import dm_utils`` costs milliseconds and a mistyped
parameter is refused before PyTorch is even imported.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Chapter": "book.chapter",
    "ErrorReport": "maths.decomposition",
    "Estimate": "maths.resampling",
    "LoadError": "base.errors",
    "ParameterError": "base.errors",
    "Profile": "world.profile",
    "Store": "engine.store",
    "Study": "engine.study",
    "check_range": "base.errors",
    "decompose": "maths.decomposition",
    "decompose_sae": "engine.own",
    "gradient_pursuit": "maths.pursuit",
    "load_profile": "world.profiles",
}
_MODULES = {
    "charts": "charts",
    "colab": "book.colab",
    "corpus": "world.corpus",
    "decomposition": "maths.decomposition",
    "display": "book.display",
    "hub": "world.hub",
    "models": "world.models",
    "needs": "world.needs",
    "own": "engine.own",
    "paper": "book.paper",
    "profiles": "world.profiles",
    "pursuit": "maths.pursuit",
    "regression": "maths.regression",
    "saes": "world.saes",
    "scaling": "maths.scaling",
    "store": "engine.store",
    "study": "engine.study",
    "synthetic": "maths.synthetic",
    "widgets": "charts.widgets",
}

__all__ = [*sorted(_HOME | _MODULES), "__version__"]


def __getattr__(name: str) -> Any:
    if _HOME.get(name, "").startswith("engine."):
        import_module("dm_utils.dictionaries")  # so that SAELens can load what only this package knows
    if name in _HOME:
        return getattr(import_module(f"dm_utils.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"dm_utils.{_MODULES[name]}")
    raise AttributeError(f"dm_utils has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
