"""The world of the profiles at 1/128 of the SAEs' width and with models of width 32, for processes that tests start.

Released SAEs state their sizes in their names and in SAELens' loader for Gemma Scope; both are scaled here, so that the
loaders, catalogs and chapters run as they are on checkpoints that take megabytes.
"""

D_MODEL, SHRINK = 32, 128
PARAMETERS = {"d_model": D_MODEL, "n_contexts": 40, "ctx_len": 64, "skip": 8, "n_bootstrap": 100, "batch": 16}


def parameters(profile):
    """The parameters that a chapter is given so that it studies the miniature of a profile."""
    from dm_utils.profiles import load_profile

    return PARAMETERS | {"profile": profile, "width": load_profile(profile).width // SHRINK, "dtype": "float32"}


def shrink():
    """Scale the sizes that names and loaders imply."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    from dm_utils import releases

    releases.UNITS = {unit: size // SHRINK for unit, size in releases.UNITS.items()}
    releases.LLAMA_D_MODEL = D_MODEL
    theirs = loaders.get_gemma_2_config_from_hf

    def config(*given, **options):
        found = theirs(*given, **options)
        return found | {"d_in": D_MODEL, "d_sae": found["d_sae"] // SHRINK}

    loaders.get_gemma_2_config_from_hf = config


if __name__ != "__main__":  # `import miniature` is all that a kernel's startup file holds
    shrink()
