"""What a module remembers between calls, forgotten: for tests of what it finds out."""

from types import ModuleType


def forget(module: ModuleType) -> None:
    """Empty every cache of a module (`functools.cache`), whatever it is called."""
    for one in list(vars(module).values()):
        if callable(getattr(one, "cache_clear", None)):
            one.cache_clear()
