"""Every claim of the paper that a table of the book can test, in the paper's order: one module for each of its parts."""

from dm_utils.chapters.scoreboard import appendices, section_4, section_5, section_6

CLAIMS = [claim for part in (section_4, section_5, section_6, appendices) for claim in part.CLAIMS]
