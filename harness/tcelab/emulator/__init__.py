"""The namesake: a Python emulator of the paravirtual TCE driver and everything under it.

The same agent code runs on it as in a guest, in this process; it is the oracle for every guest's run, a platform of its
own, and the one readable statement of the rules (`profiles`).
"""

from tcelab.emulator.emulatorsession import EmulatorSession

__all__ = ["EmulatorSession"]
