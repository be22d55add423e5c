"""A program in QEMU's place: answers `-d help`, speaks QMP on the descriptor that it inherits, and does what it is told
there by commands that a QEMU has not (x-...). FAKE_QEMU, as JSON, changes its ways.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

WAYS = json.loads(os.environ.get("FAKE_QEMU", "{}"))
ANSWERS = {
    "qom-list-types": [{"name": "edu"}, {"name": "virtio-net"}],
    "query-machines": [{"name": "none"}, {"name": "pseries-9.9", "alias": "pseries"}],
    "qom-list-properties": [{"name": "x-vof"}, {"name": "type"}],
    "query-command-line-options": [{"option": "run-with", "parameters": [{"name": "exit-with-parent"}]}],
    "query-commands": [{"name": "stop"}, {"name": "xen-save-devices-state"}],
    "trace-event-get-state": [{"name": "spapr_iommu_ddw_create"}, {"name": "spapr_iommu_new_table"}],
    "query-version": {"qemu": {"major": 9, "minor": 8, "micro": 7}, "package": "Toy 1"},
    "query-status": {"status": "paused"},
    **WAYS.get("answers", {}),
}


def descriptor(name):
    """The one that was given for a character device."""
    found = re.search(rf"socket,id={name},fd=(\d+)", " ".join(sys.argv))
    return int(found[1]) if found else -1


def main():
    if WAYS.get("says"):
        sys.stderr.write(WAYS["says"])
        sys.stderr.flush()
    if "exits" in WAYS:
        sys.exit(WAYS["exits"])
    if sys.argv[-2:] == ["-d", "help"]:
        sys.stdout.write(WAYS.get("help", "Log items:\nguest_errors    log\ninvalid_mem  log\nunimp  log\n"))
        return
    if "-monitor" in sys.argv:  # does that machine start?
        sys.exit(0 if sys.stdin.read() == "quit\n" and "pseries,x-vof=on" in sys.argv and WAYS.get("vof", True) else 1)
    if WAYS.get("hangs"):
        with subprocess.Popen(["sleep", "10"]) as child, Path(WAYS["hangs"]).open("w") as file:
            file.write(f"{os.getpid()} {child.pid}")
            file.flush()
            time.sleep(10)
    if WAYS.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    talk(descriptor("qmp"), descriptor("console"))


def requests(qmp):
    """As they come: nothing stands between two of them."""
    text = ""
    while data := os.read(qmp, 1 << 16):
        text += data.decode()
        while text:
            try:
                asked, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield asked


def obey(name, given, console):
    """The commands that a QEMU has not."""
    if name == "x-exit":
        os._exit(given["status"])
    elif name == "x-kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "x-console":
        os.write(console, given["text"].encode())
    elif name == "x-status":
        ANSWERS["query-status"] = {"status": given["status"]}
    elif name == "x-hang-up":
        os.close(console)


def talk(qmp, console):
    def tell(**what):
        os.write(qmp, json.dumps(what).encode() + b"\r\n")

    version = {"qemu": {"major": 9, "minor": 8, "micro": 7}, "package": ""}
    tell(QMP={"version": version, "capabilities": []})
    for asked in requests(qmp):
        name, ident, given = asked["execute"], asked.get("id"), asked.get("arguments", {})
        obey(name, given, console)
        if name == "x-event":
            tell(event=given["name"], data=given.get("data", {}), timestamp={"seconds": 1, "microseconds": 2})
        if name == "x-refuse":
            tell(error={"class": "GenericError", "desc": "cannot do that"}, id=ident)
        elif name != "x-silence" and not (name == "quit" and WAYS.get("stubborn")):
            tell(**{"return": ANSWERS.get(name, {}), "id": ident})
            if name == "quit":
                return
        if name == "x-console-soon":
            time.sleep(0.05)
            os.write(console, given["text"].encode())
    if WAYS.get("stubborn"):
        time.sleep(5)


main()
