"""The lab: a small language model and a suite of SAEs, trained from scratch by this project and shipped with it.

``python -m dm_utils.lab --help`` trains all of it again.
"""

from dm_utils.lab.manifest import read_manifest, verify, weights_path
from dm_utils.lab.text import evaluation_text, pack, training_text

__all__ = ["evaluation_text", "pack", "read_manifest", "training_text", "verify", "weights_path"]
