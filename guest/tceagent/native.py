"""Native programs of the guest image, which report by printing.

Each ends with one line of `name=number`. Before it, dots show progress.
"""

from __future__ import annotations

import posix

from tceagent import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Union

    from tceagent.seam import Outcome
    from tceagent.state import State

FOLDER = "/usr/lib/tcelab"
_BLOCK = 4096


def native(state: State, *, program: str, args: list[Union[int, str]]) -> Outcome:
    """Arguments are numbers, and `$name` for the number of a bound device's group."""
    words = [str(state.bound[arg[1:]]["group"]) if isinstance(arg, str) else str(arg) for arg in args]
    try:
        status, output = state.kernel.run(f"{FOLDER}/{program}", words)
    except OSError as error:
        raise errors.RefusedError(error) from error
    return {"value": status, "fields": parse(output)}


def parse(output: bytes) -> dict[str, int]:
    """The numbers of the last line.

    :raise ValueError: it is of another kind.
    """
    words = [word.partition("=") for word in output.decode().lstrip(".").split()]
    return {name: int(number) for name, _, number in words}


def run(path: str, arguments: list[str], beat: Callable[[], None]) -> tuple[int, bytes]:
    """Run a program to its end; it inherits only this process's rights.

    :param beat: called whenever it has written something.
    :return: its exit status, and all that it wrote.
    :raise OSError: there is no such program.
    :raise RuntimeError: a signal killed it.
    """
    read, write = posix.pipe()
    try:
        pid = posix.posix_spawn(path, [path, *arguments], {}, file_actions=[(posix.POSIX_SPAWN_DUP2, write, 1)])
        posix.close(write)
        write = -1
        parts = [posix.read(read, _BLOCK)]
        while parts[-1]:
            beat()
            parts.append(posix.read(read, _BLOCK))
        status = posix.waitpid(pid, 0)[1]
    finally:
        posix.close(read)
        if write >= 0:
            posix.close(write)
    if posix.WIFSIGNALED(status):
        raise RuntimeError(f"{path} was killed by signal {posix.WTERMSIG(status)}")
    return posix.WEXITSTATUS(status), b"".join(parts)
