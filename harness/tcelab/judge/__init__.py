"""Judges a run by laws that need no second opinion: the fold of what succeeded against what the host saw."""

from tcelab.judge.core import Judge, judge
from tcelab.judge.finding import EXIT_CODES, LAWS, Batch, Evidence, Finding, LawCount, Verdict

__all__ = ["EXIT_CODES", "LAWS", "Batch", "Evidence", "Finding", "Judge", "LawCount", "Verdict", "judge"]
