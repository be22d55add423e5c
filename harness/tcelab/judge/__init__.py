"""Judges a run by laws that need no second opinion: the fold of what succeeded against what the host saw.

- `advice`: what to add to a program that could not be judged
- `blame`: which operation did it
- `core`: the judge: asks the laws at each step
- `finding`: laws, findings, evidence, verdict, as plain data
- `law`: what a law is
- `laws`: one file for each law, of its name
- `ledger`: where laws write what they found, each wrong thing once
- `models`: what must be true after operations that succeeded
- `standing`: which entries are wrong, look by look: each is news once
- `verdict`: makes every verdict
"""

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
