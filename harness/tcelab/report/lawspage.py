"""`docs/laws.md`: all laws, made from the `LAW` of each file in `judge/laws/`, and those of the leak check.

`python -m tcelab.report.lawspage > docs/laws.md` makes it anew; a test holds the page against this.
"""

from __future__ import annotations

import sys
from typing import Final

from tcelab.judge.laws import ALL
from tcelab.leakcheck.leakresult import LAWS as OF_LEAK_CHECKS

_INTRO: Final = """\
# Laws

<!-- Made from harness/tcelab/judge/laws/: python -m tcelab.report.lawspage > docs/laws.md -->

A law is one thing that must hold in every run. A run passes if each law that was asked holds and the evidence is
complete. Each law is one file of its name in `harness/tcelab/judge/laws/`; [Write a law](howto/law.md) adds one.

Laws compare what was seen with the *fold*: the state that the operations which succeeded should have produced. The fold
knows no errno rules, so it is right for every kernel. Only `difference` asks the [emulator](emulator.md).
"""

_LAWS: Final = """\
## The laws of a run

A law that lacks what it needs says nothing, and the report counts it as `not judged`.

| law | what must hold | needs | how it finds |
| --- | --- | --- | --- |
{rows}
"""

_WITNESSES: Final = """\
## Witnesses

Laws read a snapshot, which is taken while the guest is stopped. Who shows what:

| witness | what it shows |
| --- | --- |
| table, view `live` | QEMU's own array of TCEs, read in QEMU's memory at the address that QEMU's trace reports |
| table, view `stream` | the same array as QEMU would save it for a migration |
| messages | the changes of a table that QEMU tells a [probe](probe.md), amidst each hypercall |
| tags | guest RAM at the address that an entry holds: each mapped page carries a tag that names it |
| device DMA | which bytes a device's transfer moved, and which it did not |
| page pins | the kernel's own counter, read by the agent |

`live` and `stream` show one array, so they count as one witness of the table. They are compared all the same, because
a wrong reader would make every other comparison worthless.

## What turns a verdict

- One broken law is a finding, exit code 1. No limit hides one: what is shown is cut, what is counted is not.
  `result.json` keeps the first 200 findings, and counts all by step and law (`by_step`).
- Could-not-judge (125) is the verdict if something was not done, not seen or not known: an operation without a rule,
  a view that is missing, a program that ends without a checkpoint. A finding outranks it.
- An access that the table forbids and that QEMU does not report is a finding as soon as QEMU reported any refusal in
  that guest, before or after. If it never reported one, the watcher may be blind, and the run is 125.
- A state that tcelab itself keeps is never proof. A PE's state is judged by its observable effects:
  see [isolation](isolation.md).
"""

_LEAKS: Final = """\
## The laws of a leak check

[`tcelab leakcheck`](leakcheck.md) judges the kernel's own drivers, of which no program says what they do. Its laws:

| law | what must hold |
| --- | --- |
{rows}
"""


def page() -> str:
    """The whole page, Markdown."""
    laws = [f"| `{law.name}` | {law.says} | {law.needs} | {law.finds} |" for law in ALL]
    leaks = [f"| `{name}` | {says} |" for name, says in OF_LEAK_CHECKS.items()]
    parts = [_INTRO, _LAWS.format(rows="\n".join(laws)), _WITNESSES, _LEAKS.format(rows="\n".join(leaks))]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
