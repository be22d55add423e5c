"""Real processes and servers on this machine, and no guest. As in unit tests, nothing of the user's own is read or
written: see `nobody`.
"""

from nobody import nobody, settings_of_nobody
from stand import host, tcelab

__all__ = ["host", "nobody", "settings_of_nobody", "tcelab"]
