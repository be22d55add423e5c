"""What a machine that is reached over ssh is told to run first, before it has the agent: `tcelab.ssh.farside` sends its
text with the command. It makes a private folder, takes the agent, runs it in a process of its own, and stays until that
has ended, or the connection has: then nothing of it is left.

It must be read by a Python that is too old for the agent, to say so.
"""

import os
import select
import signal
import sys
from contextlib import suppress

OLDEST = (3, 9)
GRACE = 3000
"""Milliseconds in which the agent must end once the connection has."""
_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  the folder itself is private, and its name cannot be guessed
_RDHUP = 0x2000  # POLLRDHUP, include/uapi/asm-generic/poll.h


def say(text: str) -> None:
    """A line for the host. What a shell printed before has not this mark."""
    os.write(1, ("%s%s\n" % (sys.argv[1], text)).encode())


def main() -> int:
    if sys.version_info < OLDEST:
        say("old %d.%d.%d" % sys.version_info[:3])
        return 1
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = own_folder()
    if not folder:
        say("nowhere")
        return 1
    try:
        say("folder %s" % folder)
        receive(folder)
        return stand_guard(folder)
    finally:
        remove(folder)


def own_folder() -> str:
    """A new folder that nobody else can enter; "": nobody lets us make one."""
    for place in (os.environ.get("TMPDIR"), *_PLACES, os.environ.get("HOME")):
        path = "%s/tcelab-%s" % (place, os.urandom(8).hex())
        try:
            os.mkdir(path, 0o700)
        except OSError:
            continue
        return path
    return ""


def receive(folder: str) -> None:
    """Take the agent: from a file that was put into the folder, or from standard input."""
    line = b""
    while not line.endswith(b"\n"):
        line += exactly(1)
    how, size = line.decode().split()
    if how == "file":
        with open(folder + "/agent", "rb") as file:
            data = file.read()
        os.unlink(folder + "/agent")
    else:
        data = exactly(int(size))
    if len(data) != int(size):
        sys.exit("tcelab: %d bytes of the agent are there, of %s" % (len(data), size))
    os.mkdir(folder + "/tceagent", 0o700)
    while data:
        head, _, data = data.partition(b"\n")
        name, length = head.decode().split()
        with open("%s/tceagent/%s" % (folder, os.path.basename(name)), "wb") as file:
            file.write(data[: int(length)])
        data = data[int(length) :]


def exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(0, min(size - len(data), 1 << 16))
        if not more:
            sys.exit("tcelab: the connection ended before the agent was there")
        data += more
    return data


def stand_guard(folder: str) -> int:
    """Start the agent; return once it has ended and all of its own, or the connection has."""
    sys.path.insert(0, folder)
    from tceagent import kernellog  # noqa: PLC0415  it was not there before

    ended, alive = os.pipe()
    log = kernellog.begin()
    child = os.fork()
    if not child:
        os.close(ended)
        run(folder)
    os.close(alive)  # each process of the agent's has it open until it ends, or becomes another program
    with suppress(OSError):  # it has done so itself
        os.setpgid(child, child)
    try:
        wait(ended)
    finally:
        with suppress(OSError):  # all have ended
            os.killpg(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        restore(folder)
    if os.WIFSIGNALED(status):
        os.write(2, ("tcelab: the agent was ended by signal %d\n" % os.WTERMSIG(status)).encode())
        for line in kernellog.lines(log):
            os.write(2, ("tcelab: kernel: %s\n" % line).encode())
    return 1 if status else 0


def wait(ended: int) -> None:
    poll = select.poll()
    poll.register(0, _RDHUP)
    poll.register(ended, 0)
    if ended not in [number for number, _ in poll.poll()]:
        poll.unregister(0)
        poll.poll(GRACE)


def run(folder: str) -> None:
    """Be the agent."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from tceagent.remote import main as agent  # noqa: PLC0415  after the fork, for it is large

        agent(folder, sys.argv[1])
        status = 0
    except BaseException:  # noqa: BLE001  whatever it is, the host must hear of it
        import traceback  # noqa: PLC0415  hardly ever needed

        traceback.print_exc()
    finally:
        os._exit(status)  # what lies below this call is the guard's


def restore(folder: str) -> None:
    """Devices that nobody drove before are driven by nobody again."""
    try:
        with open(folder + "/bound") as file:
            addresses = file.read().split()
    except OSError:
        return
    for address in addresses:
        write("/sys/bus/pci/drivers/vfio-pci/unbind", address)
        write("/sys/bus/pci/devices/%s/driver_override" % address, "\n")


def write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        os.write(2, ("tcelab: %s: %s\n" % (path, error)).encode())


def remove(folder: str) -> None:
    for inner in (folder + "/tceagent", folder):
        try:
            for name in os.listdir(inner):
                os.unlink("%s/%s" % (inner, name))
            os.rmdir(inner)
        except OSError:
            continue


if __name__ == "__main__":
    sys.exit(main())
