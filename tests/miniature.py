"""The world of the profiles at 1/128 of the SAEs' width and with models of width 32, for processes that tests start.

Released SAEs state their sizes in their names and in SAELens' loader for Gemma Scope; both are scaled here, so that the
loaders, catalogs and chapters run as they are on checkpoints that take megabytes.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

D_MODEL, SHRINK = 32, 128
FOR_GOOD = ExitStack()  # what is entered here stays entered while the process lives
PARAMETERS = {"d_model": D_MODEL, "n_contexts": 40, "ctx_len": 64, "skip": 8, "n_bootstrap": 100, "batch": 16}


def parameters(profile):
    """The parameters that a chapter is given so that it studies the miniature of a profile."""
    from dm_utils.world.profiles import load_profile

    return PARAMETERS | {"profile": profile, "width": load_profile(profile).width // SHRINK, "dtype": "float32"}


@contextmanager
def shrunk():
    """Scale the sizes that names and loaders imply; afterwards everything is as it was."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    from dm_utils.world import releases

    theirs = loaders.get_gemma_2_config_from_hf

    def config(*given, **options):
        found = theirs(*given, **options)
        return found | {"d_in": D_MODEL, "d_sae": found["d_sae"] // SHRINK}

    units = {unit: size // SHRINK for unit, size in releases.UNITS.items()}
    releases.registry_catalog.cache_clear()
    with (
        patch.multiple(releases, UNITS=units, LLAMA_D_MODEL=D_MODEL),
        patch.object(loaders, "get_gemma_2_config_from_hf", config),
    ):
        yield
    releases.registry_catalog.cache_clear()


def shrink():
    """The same for good: for processes that tests start."""
    FOR_GOOD.enter_context(shrunk())
