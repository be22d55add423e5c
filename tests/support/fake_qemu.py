"""A program in QEMU's place: answers `-d help` and `-L help`, speaks QMP and the test port's protocol where it is told,
maps a fork's RAM, and does what it is told by commands that a QEMU has not (x-...). Its ways: FAKE_QEMU, as JSON.
"""

import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

WAYS = json.loads(os.environ.get("FAKE_QEMU", "{}"))
ANSWERS = {
    "qom-list-types": [{"name": "edu"}, {"name": "virtio-net"}],
    "query-machines": [{"name": "none"}, {"name": "pseries-9.9", "alias": "pseries"}],
    "query-command-line-options": [{"option": "run-with", "parameters": [{"name": "exit-with-parent"}]}],
    "query-commands": [{"name": "stop"}, {"name": "xen-save-devices-state"}],
    "trace-event-get-state": [{"name": "spapr_iommu_ddw_create"}, {"name": "spapr_iommu_new_table"}],
    "query-cpu-definitions": [{"name": name} for name in ("power9", "power9_v2.2", "power10", "970")],
    "query-migrate-capabilities": [{"capability": "events"}, {"capability": "mapped-ram"}],
    "query-version": {"qemu": {"major": 9, "minor": 8, "micro": 7}, "package": "Toy 1"},
    "query-status": {"status": "running"},
    "query-migrate": {"status": "failed", "error-desc": "the file is full"},
    **WAYS.get("answers", {}),
}
PROPERTIES = {
    "pseries-9.9-machine": ["x-vof", "type"],
    "pseries-machine": ["type"],
    "memory-backend-file": ["readonly", "rom", "share"],
    **WAYS.get("properties", {}),
}
JOURNAL = []
"""What was done that matters in its order: migrations, RTAS calls, cont and quit."""


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
    if sys.argv[-2:] == ["-L", "help"]:
        sys.stdout.write("\n".join(WAYS.get("folders", ["/nonexistent"])) + "\n")
        return
    if "-monitor" in sys.argv:  # does that machine start?
        sys.exit(0 if sys.stdin.read() == "quit\n" and "pseries,x-vof=on" in sys.argv and WAYS.get("vof", True) else 1)
    if WAYS.get("hangs"):
        with subprocess.Popen(["sleep", "60"]) as child, Path(WAYS["hangs"]).open("w") as file:
            file.write(f"{os.getpid()} {child.pid}")
            file.flush()
            time.sleep(60)
    if WAYS.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ram = map_ram()
    if (port := descriptor("qtest")) >= 0:
        threading.Thread(target=test_port, args=(port,), daemon=True).start()
    talk(descriptor("qmp"), descriptor("console"), ram)


def map_ram():
    """A fork's: copy-on-write."""
    found = re.search(r"size=(\d+)M,mem-path=/proc/self/fd/(\d+),share=off", " ".join(sys.argv))
    if not found or not WAYS.get("maps", True):
        return None
    return mmap.mmap(int(found[2]), int(found[1]) << 20, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)


def test_port(port):
    """Serve it: guest memory for arguments, and the configuration registers of devices."""
    memory = {}
    registers = {tuple(place): value for *place, value in WAYS.get("registers", [])}
    with os.fdopen(port, "r+b", buffering=0) as file:
        for line in iter(file.readline, b""):
            command, *words = line.decode().split()
            if command == "write":
                memory[int(words[0], 0)] = bytes.fromhex(words[2][2:])
                answer = "OK"
            elif command == "read":
                answer = "OK 0x" + memory[int(words[0], 0)].hex()
            else:
                given = struct.unpack(f">{words[1]}I", memory[int(words[2], 0)])
                result = rtas(words[0], given, registers)
                memory[int(words[4], 0)] = struct.pack(f">{len(result)}I", *result)
                answer = "OK 0"
            file.write(answer.encode() + b"\n")


def rtas(name, given, registers):
    """A call's result cells."""
    place, high, low, size, *value = given
    key = high << 32 | low, place >> 11, place & 0x7FF, size
    if name == "ibm,write-pci-config":
        JOURNAL.append([name, *key, *value])
        if [*key] not in WAYS.get("stuck", []):
            registers[key] = value[0]
        return [0]
    return [0, registers.get(key, 0)]


def migrate(name, uri, tell):
    """Save a few bytes, or load them, and tell how it ended."""
    path = uri.removeprefix("file:")
    if name == "migrate":
        with Path(path).open("r+b") as file:  # not every QEMU makes it empty first
            file.write(b"the devices' state")
    JOURNAL.append([name, Path(path).read_bytes().decode()])
    for status in ("setup", "active", WAYS.get("migration", "completed")):
        tell(event="MIGRATION", data={"status": status}, timestamp={"seconds": 1, "microseconds": 2})


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


def obey(name, given, console, ram):
    """The commands that a QEMU has not, and what is put down in the journal."""
    if name in {"cont", "quit", "migrate-set-capabilities"}:
        JOURNAL.append([name, *given.get("capabilities", [])])
    if name == "x-journal":
        ANSWERS[name] = JOURNAL
    elif name == "x-poke":
        ram[given["at"] : given["at"] + len(given["text"])] = given["text"].encode()
    elif name == "x-exit":
        os._exit(given["status"])
    elif name == "x-kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "x-console":
        os.write(console, given["text"].encode())
    elif (name, ANSWERS["query-status"]["status"]) in {("stop", "running"), ("cont", "paused")}:
        ANSWERS["query-status"] = {"status": "paused" if name == "stop" else "running"}
    elif name == "x-status":
        ANSWERS["query-status"] = {"status": given["status"]}
    elif name == "x-hang-up":
        os.close(console)


def answer(name, given):
    """What a QEMU would return."""
    if name == "qom-list-properties":
        return [{"name": each} for each in PROPERTIES.get(given["typename"], [])]
    return ANSWERS.get(name, {})


def talk(qmp, console, ram):
    def tell(**what):
        os.write(qmp, json.dumps(what).encode() + b"\r\n")

    version = {"qemu": {"major": 9, "minor": 8, "micro": 7}, "package": ""}
    tell(QMP={"version": version, "capabilities": []})
    for asked in requests(qmp):
        name, ident, given = asked["execute"], asked.get("id"), asked.get("arguments", {})
        obey(name, given, console, ram)
        if name == "x-event":
            tell(event=given["name"], data=given.get("data", {}), timestamp={"seconds": 1, "microseconds": 2})
        if name == "x-refuse":
            tell(error={"class": "GenericError", "desc": "cannot do that"}, id=ident)
        elif name != "x-silence" and not (name == "quit" and WAYS.get("stubborn")):
            tell(**{"return": answer(name, given), "id": ident})
            if name.startswith("migrate") and "uri" in given:
                migrate(name, given["uri"], tell)
            if name == "quit":
                return
        if name == "x-console-soon":
            time.sleep(0.05)
            os.write(console, given["text"].encode())
    if WAYS.get("stubborn"):
        time.sleep(60)


main()
