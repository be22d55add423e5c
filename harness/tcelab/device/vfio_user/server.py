"""A device behind a socket: it waits for one client, serves it, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tcelab.device.vfio_user.connection import Connection
from tcelab.device.vfio_user.pcidevice import PciDevice
from tcelab.device.vfio_user.protocol import LinkLost, ProtocolError
from tcelab.errors import UsageError

_PRIVATE: Final = 0o700
_SOCKET: Final = "device.sock"


class Server:
    """One device, and the socket at which it waits for one client::

        async with Server(device) as server:
            print(server.path)     # for -device '{"driver": "vfio-user-pci", "socket": {"type": "unix", "path": ...}}'
            await server.serve()   # until the client leaves

    :ivar path: of the socket.
    :ivar descriptor: for a client that is a child of this process and inherits it: `path` then leads through it, and
        there is nothing in the file system; else None.
    :ivar connection: the client's, once there was one.
    """

    def __init__(self, device: PciDevice, directory: Path | None = None, *, hidden: bool = False) -> None:
        """:param directory: for the socket: a private one (mode 0700) of this user; by default a new one.
        :param hidden: the socket is removed from the file system before anybody knows its name.
        :raise UsageError: others than this user may look into the directory.
        """
        self.device = device
        self.connection: Connection | None = None
        self.descriptor: int | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._made = directory is None
        self._directory = Path(tempfile.mkdtemp(prefix="tcelab-")) if directory is None else directory
        _expect_private(self._directory)
        self.path = str(self._directory / _SOCKET)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._bind(hidden=hidden)
            self._listener.listen(1)
            self._listener.setblocking(False)  # noqa: FBT003 - its only parameter
            if hidden:
                self.descriptor = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
                self._remove()
                self.path = f"/proc/self/fd/{self.descriptor}"
        except BaseException:
            self._stop_listening()
            raise
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _bind(self, *, hidden: bool) -> None:
        """A name that nobody will use is as short as it can be, however long that of the directory is: there is room
        for 107 bytes (Linux include/uapi/linux/un.h, UNIX_PATH_MAX).
        """
        if not hidden:
            self._listener.bind(self.path)
            return
        folder = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{folder}/{_SOCKET}")
        finally:
            os.close(folder)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        self._stop_listening()  # a device has one client
        self.connection = Connection(sock, self.device, self._end)
        self.connection.attach()

    def _end(self, _why: ProtocolError | LinkLost) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    @property
    def why(self) -> ProtocolError | LinkLost | None:
        """Why the link ended; None: it lasts, or there was none yet."""
        return None if self.connection is None else self.connection.ended

    async def ended(self) -> None:
        """Wait until the link has ended."""
        await asyncio.shield(self._ended)

    async def serve(self) -> None:
        """Serve the client until it leaves, or until `close`.

        :raise ProtocolError: it sent what is no vfio-user.
        """
        await self.ended()
        if isinstance(self.why, ProtocolError):
            raise self.why

    def close(self) -> None:
        """End the link, and remove the socket. May be called twice."""
        self._stop_listening()
        if self.connection is not None:
            self.connection.end(LinkLost("the device was closed"))
        if not self._ended.done():
            self._ended.set_result(None)

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            (self._directory / _SOCKET).unlink()
        if self._made:
            with contextlib.suppress(OSError):
                self._directory.rmdir()


def _expect_private(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077 or not stat.S_ISDIR(found.st_mode):
        raise UsageError(
            f"{directory} is not private: whoever connects to the socket of a device is its machine",
            next_step=f"chmod {_PRIVATE:o} {directory}",
        )
