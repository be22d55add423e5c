"""Judges a run by laws that need no second opinion: the fold of what succeeded against what the host saw."""

from tcelab.judge.core import Judge, judge
from tcelab.judge.finding import Batch, Evidence, Finding, LawCount, Verdict
from tcelab.judge.laws import LAWS
from tcelab.judge.ledger import Ledger
from tcelab.judge.verdict import conclude

__all__ = [
    "LAWS",
    "Batch",
    "Evidence",
    "Finding",
    "Judge",
    "LawCount",
    "Ledger",
    "Verdict",
    "conclude",
    "judge",
]
