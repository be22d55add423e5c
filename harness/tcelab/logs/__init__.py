"""What tcelab logs, and who sees it: a display, `log.txt`, or a user of `logging`.

Each module has a logger of its name. Lines that every user sees carry `extra=NOTE` or `extra=PHASE`; all others are
seen with -v (INFO) and -vv (DEBUG). Without a display and without a log.txt, nothing is printed: a program that uses
tcelab as a library decides by `logging` alone.

- `context`: which guest and subject a line is about
- `display`: what a person sees of the log while a command lasts
- `handlers`: which handlers of ours hang on tcelab's logger, and the level that this takes
- `line`: one record as one line of text
- `logfile`: `log.txt`
"""

from tcelab.logs.context import about, of_guest, screened
from tcelab.logs.display import NOTE, PHASE, Display, shown_on, verbose
from tcelab.logs.logfile import LogFile

__all__ = ["NOTE", "PHASE", "Display", "LogFile", "about", "of_guest", "screened", "shown_on", "verbose"]
