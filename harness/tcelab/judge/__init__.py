"""Judges a run by laws: compares what the host saw with the fold of the operations that succeeded.

- `advice`: what to add to a program that could not be judged
- `blame`: which operation to blame for a finding
- `core`: the judge, which applies the laws at each step
- `finding`: laws, findings, evidence, verdict, as plain data
- `law`: what a law is
- `laws`: one file for each law, named after it
- `ledger`: where laws record what they found, each defect once
- `models`: what must be true after operations that succeeded
- `standing`: which table entries are wrong, snapshot by snapshot: each is news once
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
