"""What a sentence claims, whatever its words: its numbers, and what it says in bold or as code, in order."""

from __future__ import annotations

import re

CLAIM = re.compile(r"\*\*[^*]+\*\*|`[^`]+`|[-+−]?\d[\d,]*(?:\.\d+)?(?: ?%)?")
LEADS = ("In this run", "In this run:")


def figures(text: str) -> str:
    """Numbers, bold words and code of a text, joined by spaces; the lead of a paragraph is left out."""
    found = [claim.strip("*`") for claim in CLAIM.findall(text.replace("\\", ""))]
    return " ".join(claim.rstrip(",") for claim in found if claim not in LEADS)
