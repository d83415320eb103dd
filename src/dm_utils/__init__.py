"""Decompose, measure and explore what sparse autoencoders leave unexplained.

Names resolve on first use, so that ``import dm_utils`` costs milliseconds and a mistyped
parameter is refused before PyTorch is even imported.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Chapter": "book",
    "Estimate": "regression",
    "ErrorReport": "decomposition",
    "LoadError": "hub",
    "ParameterError": "profiles",
    "Profile": "profiles",
    "Study": "study",
    "Store": "store",
    "decompose": "decomposition",
    "decompose_sae": "own",
    "gradient_pursuit": "pursuit",
    "load_profile": "profiles",
}
_MODULES = {
    "charts",
    "colab",
    "corpus",
    "decomposition",
    "display",
    "hub",
    "models",
    "needs",
    "own",
    "paper",
    "profiles",
    "pursuit",
    "regression",
    "saes",
    "scaling",
    "store",
    "study",
    "synthetic",
    "widgets",
}

__all__ = [*sorted(_HOME.keys() | _MODULES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"dm_utils.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"dm_utils.{name}")
    raise AttributeError(f"dm_utils has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
