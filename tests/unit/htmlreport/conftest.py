"""Folders of runs and nights, made once."""

from __future__ import annotations

from reportfolders import campaign, flipped, gone, leaking, made, night, page, passed, series, unbegun

__all__ = ["campaign", "flipped", "gone", "leaking", "made", "night", "page", "passed", "series", "unbegun"]
