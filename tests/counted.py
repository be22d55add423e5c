"""Opens and closes forks in a row and counts what its process has then: `python counted.py FOLDER NUMBER...`.

Prints a line of JSON after each number of forks that is given. A program of its own, so that nobody else opens or
closes anything in it.
"""

import ctypes
import gc
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from tcelab.image.store import cache_dir
from tcelab.job import setup
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks


def counted(folder, key):
    # What waits for the collector or what the C library keeps for later is held by nobody, and comes and goes by tens
    # of megabytes.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    children = [each.read_text() for each in Path("/proc/self/task").glob("*/children")]
    return {
        "rss": int(status["VmRSS"].split()[0]),
        "descriptors": sorted(map(str, map(target, Path("/proc/self/fd").iterdir()))),
        "tasks": len(list(Path("/proc/self/task").iterdir())),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": "".join(children).split(),
        "artefacts": sorted(path.name for path in folder.rglob("*")),
        "cache": sorted(map(str, (cache_dir() / "bases").glob(f"*{key}*/*"))),
    }


def target(descriptor):
    """What a descriptor is, by its kind: numbers of sockets and pipes are never the same again."""
    try:
        return str(descriptor.readlink()).partition(":[")[0]
    except OSError:  # the one that the listing itself had
        return "gone"


def main():
    folder, marks = Path(sys.argv[1]), [int(word) for word in sys.argv[2:]]
    ready = setup.prepare(setup.MachineChoice(topology=topology("two-pe")))
    notes, opening, closing = [], [], []
    told = logging.Handler(logging.WARNING)
    told.emit = lambda record: notes.append(record.getMessage())
    logging.getLogger("tcelab").addHandler(told)
    forks = Forks(ready.qemu, ready.options, digest=ready.digest)
    for number in range(1, max(marks) + 1):
        began = time.monotonic()
        session = forks.open(folder)
        opened = time.monotonic()
        pid, key = session.guest.pid, session.facts.versions["base"]["key"]
        session.close()
        opening.append(opened - began)
        closing.append(time.monotonic() - opened)
        assert not Path(f"/proc/{pid}").exists()
        if number in marks:
            figures = {"forks": number, "notes": notes, "opening": opening, "closing": closing}
            sys.stdout.write(json.dumps(figures | counted(folder, key)) + "\n")
            sys.stdout.flush()
            opening, closing = [], []
    forks.close()
    sys.stdout.write(json.dumps({"forks": "closed"} | counted(folder, key)) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
