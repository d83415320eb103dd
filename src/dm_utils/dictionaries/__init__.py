"""Methods of dictionary learning, one file each, registered with SAELens.

Importing the package registers the two whose codes SAELens cannot compute; the others are saved as one of SAELens' own kinds.
"""

from dm_utils.dictionaries import itda, top_afa

__all__ = ["itda", "top_afa"]
