"""VFIO's core layer: container, group and device files, as today's kernel has them.

Source: drivers/vfio/container.c, group.c, vfio_main.c, pci/vfio_pci_core.c (6.12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tceagent import uapi
from tcelab.emulator.addressspaces import FaultError
from tcelab.emulator.checks import Check, IoctlCall, Request, copies_in, give, long_enough, number_of
from tcelab.emulator.drivertable import Driver, DriverKind
from tcelab.emulator.process import OpenFile, Process
from tcelab.emulator.syscallerrors import SyscallError
from tcelab.emulator.vfiopci import DeviceFile

if TYPE_CHECKING:
    from tcelab.emulator.platform import EmulatedPe, Machine

VIABLE: Final = 1
CONTAINER_SET: Final = 2


class ContainerFile(OpenFile):
    """/dev/vfio/vfio, opened once. Groups hold it as well (kref)."""

    def __init__(self, machine: Machine, kind: DriverKind) -> None:
        super().__init__()
        self.machine = machine
        self.kind = kind
        self.driver: Driver | None = None
        self.groups: list[GroupFile] = []

    def ioctl(self, process: Process, request: int, argument: int) -> int:
        """vfio_fops_unl_ioctl."""
        number = number_of(request)
        if number in CONTAINER_REQUESTS:
            call = IoctlCall(self.machine, process, self, argument)
            return CONTAINER_REQUESTS[number].perform(call, frozenset())
        if self.driver is None:
            raise SyscallError("EINVAL")
        return self.driver.ioctl(process, request, argument)

    def join(self, group: GroupFile) -> None:
        """vfio_container_attach_group; the group's own checks come before. The group that came last is first.

        A PE whose group the driver does not take goes back to the platform, as in `leave`.
        """
        group.pe.owned = True
        self.machine.taken(group.pe)
        if self.driver is not None:
            try:
                self.driver.attach(group.pe)
            except SyscallError:
                self._give_back(group.pe)
                raise
        group.container = self
        self.groups.insert(0, group)
        self.get()

    def leave(self, group: GroupFile, process: Process) -> None:
        """vfio_group_detach_container: the last group takes the driver along.

        Today's kernel gives the PE back to the platform, whose default window is made anew then, whatever stood there
        (vfio_group_detach_container, iommu_group_release_dma_owner; pseries/iommu.c, spapr_tce_release_ownership).
        """
        if self.driver is not None and self.machine.detaches:
            self.driver.detach(group.pe, process)
        self.groups.remove(group)
        group.container = None
        if not self.groups and self.driver is not None:
            self.driver.release(process)
            self.driver = None
        self._give_back(group.pe)
        self.put(process)

    def _give_back(self, pe: EmulatedPe) -> None:
        if self.kind.gives_back:
            pe.reset()
        pe.owned = False


class GroupFile(OpenFile):
    """/dev/vfio/N, which is open at most once. Device files hold it open."""

    def __init__(self, machine: Machine, pe: EmulatedPe) -> None:
        super().__init__()
        self.machine = machine
        self.pe = pe
        self.container: ContainerFile | None = None
        self.devices = 0

    def ioctl(self, process: Process, request: int, argument: int) -> int:
        """vfio_group_fops_unl_ioctl."""
        asked = GROUP_REQUESTS.get(number_of(request))
        if asked is None:
            raise SyscallError("ENOTTY")
        return asked.perform(IoctlCall(self.machine, process, self, argument), frozenset())

    def release(self, process: Process) -> None:
        """vfio_group_fops_release."""
        if self.container is not None:
            self.container.leave(self, process)
        self.pe.group_file = None


# -- what requests do


def _check_extension(call: IoctlCall) -> int:
    if call.on.driver is not None:
        return int(call.on.driver.ioctl(call.process, uapi.NUMBERS["CHECK_EXTENSION"], call.argument))
    return int(call.on.kind.extension(call.argument))


def _set_iommu(call: IoctlCall) -> int:
    container = call.on
    driver = container.kind.open(call.machine, call.argument)
    attached: list[EmulatedPe] = []
    try:
        for group in container.groups:
            driver.attach(group.pe)
            attached.append(group.pe)
    except SyscallError:
        for pe in attached:
            driver.detach(pe, call.process)
        driver.release(call.process)
        raise
    container.driver = driver
    return 0


CONTAINER_REQUESTS: Final = {
    0: Request("GET_API_VERSION", (), lambda _: 0),
    1: Request("CHECK_EXTENSION", (), _check_extension),
    2: Request(
        "SET_IOMMU",
        (
            Check("no group", lambda call: not call.on.groups, "EINVAL", "container.c, vfio_ioctl_set_iommu"),
            Check(
                "set already", lambda call: call.on.driver is not None, "EINVAL", "container.c, vfio_ioctl_set_iommu"
            ),
            Check(
                "type not supported",
                lambda call: call.on.kind.extension(call.argument) <= 0,
                "ENODEV",
                "container.c, vfio_ioctl_set_iommu: no driver says yes to CHECK_EXTENSION",
            ),
        ),
        _set_iommu,
    ),
}


def _status(call: IoctlCall) -> int:
    call.param["flags"] = VIABLE | (CONTAINER_SET if call.on.container is not None else 0)
    return give(call, "GROUP_GET_STATUS")


def _no_file(call: IoctlCall) -> bool:
    try:
        call.process.file(call.param["container"])
    except SyscallError:
        return True
    return False


def _wrong_file(call: IoctlCall) -> bool:
    return not isinstance(call.process.file(call.param["container"]), ContainerFile)


def _join(call: IoctlCall) -> int:
    container = call.process.file(call.param["container"])
    assert isinstance(container, ContainerFile)
    container.join(call.on)
    return 0


def _unset(call: IoctlCall) -> int:
    call.on.container.leave(call.on, call.process)
    return 0


def _no_text(call: IoctlCall) -> str:
    """strndup_user, of at most PAGE_SIZE bytes."""
    text = bytearray()
    try:
        while (byte := call.process.space.copy_in(call.argument + len(text), 1)) != b"\0":
            text += byte
            if len(text) >= call.machine.page_size:
                return "EINVAL"
    except FaultError:
        return "EFAULT"
    call.text = text.decode(errors="replace")
    return ""


def _get_device_fd(call: IoctlCall) -> int:
    group: GroupFile = call.on
    device = group.pe.at(call.text)
    assert device is not None
    return call.process.install(DeviceFile(call.machine, group, device))


GROUP_REQUESTS: Final = {
    3: Request(
        "GROUP_GET_STATUS",
        (copies_in("GROUP_GET_STATUS"), long_enough("GROUP_GET_STATUS")),
        _status,
    ),
    4: Request(
        "GROUP_SET_CONTAINER",
        (
            copies_in("GROUP_SET_CONTAINER"),
            Check("no such file", _no_file, "EBADF", "group.c, vfio_group_ioctl_set_container: fdget"),
            Check(
                "has a container",
                lambda call: call.on.container is not None,
                "EINVAL",
                "group.c, vfio_group_ioctl_set_container: vfio_group_has_iommu",
            ),
            Check(
                "no container",
                _wrong_file,
                "EBADFD",
                "group.c, vfio_group_ioctl_set_container: vfio_container_from_file",
            ),
        ),
        _join,
    ),
    5: Request(
        "GROUP_UNSET_CONTAINER",
        (
            Check(
                "has no container",
                lambda call: call.on.container is None,
                "EINVAL",
                "group.c, vfio_group_ioctl_unset_container: !vfio_group_has_iommu",
            ),
            Check(
                "in use",
                lambda call: call.on.devices > 0,
                "EBUSY",
                "group.c, vfio_group_ioctl_unset_container: container_users != 1",
            ),
        ),
        _unset,
    ),
    6: Request(
        "GROUP_GET_DEVICE_FD",
        (
            Check("no text", _no_text, None, "group.c, vfio_group_ioctl_get_device_fd: strndup_user"),
            Check(
                "no such device",
                lambda call: call.on.pe.at(call.text) is None,
                "ENODEV",
                "group.c, vfio_device_get_from_name",
            ),
            Check(
                "has no container",
                lambda call: call.on.container is None,
                "EINVAL",
                "group.c, vfio_df_group_open: !vfio_group_has_iommu",
            ),
            Check(
                "container has no driver",
                lambda call: call.on.container.driver is None,
                "EINVAL",
                "container.c, vfio_group_use_container",
            ),
        ),
        _get_device_fd,
    ),
}
