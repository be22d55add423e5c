"""Random steps in the lives of containers, groups and devices, in order and out of order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from tcelab.fuzz.madethings import MadeContainer, MadeDevice, MadeFile, MadeGroup, MadeProcess
from tcelab.fuzz.world import SPAPR_TCE, SPAPR_TCE_V2, World

MOST_CONTAINERS: Final = 3
V2_CHANCE: Final = 0.5
CROWD: Final = 2
MOST_DEVICES: Final = 3
"""Device files of a group."""

NO_FD: Final = 4096
"""A descriptor above the limit of a process (RLIMIT_NOFILE)."""

WRONG_TYPES: Final = (0, 1, 3, 4, 5, 6, 8, 9, 99, 1 << 32 | SPAPR_TCE)
"""Without VFIO_SPAPR_TCE_v2_IOMMU (7), which is right, and has rules of its own."""

INFOS: Final = ("SPAPR_TCE_GET_INFO", "SPAPR_TCE_GET_INFO_DDW")
"""One request, with its struct of 2013 and with today's."""

EXTENSIONS: Final = (*range(11), 99, 1 << 32 | SPAPR_TCE)

UNKNOWN_REQUESTS: Final = (0x20003B63, 0x20003BFF, 0x20003B00, 0x3B71, 0x3B73, 0x20003C71)
"""Numbers before and after the known ones, with other architectures' encoding, and of another type."""

MISPLACED: Final[dict[type, tuple[str, ...]]] = {
    MadeContainer: (
        "GROUP_GET_STATUS",
        "GROUP_UNSET_CONTAINER",
        "DEVICE_GET_INFO",
        "DEVICE_RESET",
        "SPAPR_REGISTER_MEMORY",
        "SPAPR_UNREGISTER_MEMORY",
        "SPAPR_TCE_CREATE",
        "SPAPR_TCE_REMOVE",
    ),
    MadeGroup: (
        "GET_API_VERSION",
        "CHECK_EXTENSION",
        "SET_IOMMU",
        "SPAPR_TCE_GET_INFO",
        "MAP_DMA",
        "UNMAP_DMA",
        "ENABLE",
    ),
    # To a device the numbers of container requests from SPAPR_TCE_GET_INFO on mean other things.
    MadeDevice: ("GET_API_VERSION", "CHECK_EXTENSION", "SET_IOMMU", "GROUP_GET_STATUS", "GROUP_UNSET_CONTAINER"),
}
"""Requests that are not for a kind of file."""


# -- what exists to work on


def files(w: World, *kinds: type) -> list[tuple[MadeProcess, MadeFile]]:
    return [(by, file) for by in w.processes for file in by.files if isinstance(file.what, kinds)]


def attached(w: World, *, free: bool = False) -> list[tuple[MadeProcess, MadeFile, MadeFile]]:
    """Files of groups and of the containers that they are in, where a process has both.

    :param free: only groups that no device file keeps there.
    """
    return [
        (by, group, container)
        for by, group in files(w, MadeGroup)
        for container in by.files
        if isinstance(group.what, MadeGroup)
        and group.what.container is not None
        and group.what.container is container.what
        and not (free and group.what.devices)
    ]


def joinable(w: World, *, gathered: bool = False) -> list[tuple[MadeProcess, MadeFile, MadeFile]]:
    """Files of groups that are in no container, and of containers, where a process has both.

    :param gathered: only containers of type v2 that have a group, else those that have none.
    """
    return [
        (by, group, container)
        for by, group in files(w, MadeGroup)
        for container in by.files
        if isinstance(group.what, MadeGroup)
        and group.what.container is None
        and isinstance(container.what, MadeContainer)
        and bool(container.what.groups) == gathered
        and (container.what.v2 is not None or not gathered)
    ]


def usable(w: World, container: MadeContainer) -> bool:
    """Some process can map with it, now or later, and it has no more groups than it can have."""
    return len(container.groups) == 1 and any(
        file.what is container and w.may_map(by, container) for by in w.processes for file in by.files
    )


def free(w: World, group: MadeGroup) -> list[Callable[[], object]]:
    """Steps that leave a container that is no longer usable."""
    if group.devices:
        return [
            partial(w.close, by, file)
            for by, file in files(w, MadeDevice)
            if isinstance(file.what, MadeDevice) and file.what.group is group
        ]
    return [partial(w.unset_container, by, file) for by, file in files(w, MadeGroup) if file.what is group]


# -- in order


def advance(w: World) -> bool:
    """The next step towards a container that maps."""
    steps: list[Callable[[], object]] = [
        partial(w.open_group, w.agent, group) for group in w.groups if group.file is None
    ]
    if joins := joinable(w):
        steps.append(partial(w.set_container, *w.pick(joins)))
    elif any(group.container is None for group in w.groups) and len(w.containers) < MOST_CONTAINERS:
        steps.append(partial(w.open_container, w.agent))
    for group in w.groups:
        if group.container is not None and not usable(w, group.container):
            steps += free(w, group)
    for file, container in w.containers:
        if len(container.groups) == 1 and not container.typed:
            steps.append(partial(w.set_iommu, w.pick(file.holders), file, some_type(w, container)))
        elif container.typed and not container.enabled and container.v2 is None:
            steps += [partial(w.enable, by, file) for by in file.holders if w.may_enable(by, container)]
    if not steps:
        return False
    w.pick(steps)()
    return True


def some_type(w: World, container: MadeContainer) -> int:
    """For windows that do not begin at 0, the emulator has rules for type v1 only."""
    possible = w.v2 and not container.groups[0].phb.window_start
    return SPAPR_TCE_V2 if possible and w.chance(V2_CHANCE) else SPAPR_TCE


def another_container(w: World) -> bool:
    if len(w.containers) >= MOST_CONTAINERS:
        return False
    w.open_container(w.pick(w.processes))
    return True


def renew(w: World, by: MadeProcess, group: MadeFile, container: MadeFile) -> None:
    """Take a group out of its container, and set up another, or the same one, with it."""
    w.unset_container(by, group)
    w.set_container(by, group, container)
    if w.chance(0.2):
        w.set_iommu(by, container, w.pick(WRONG_TYPES))
    w.set_iommu(by, container, SPAPR_TCE)


def move(w: World) -> bool:
    """Take a group from one container to another."""
    if not (groups := attached(w, free=True)):
        return False
    by, group, _ = w.pick(groups)
    others = [file for file in by.files if isinstance(file.what, MadeContainer) and not file.what.groups]
    if not others and len(w.containers) >= MOST_CONTAINERS:
        return False
    new = w.pick(others) if others else w.open_container(by)
    renew(w, by, group, new)
    if w.chance(0.8):
        w.enable(by, new)
    return True


def leave(w: World) -> bool:
    if not (groups := attached(w, free=True)):
        return False
    by, group, _ = w.pick(groups)
    w.unset_container(by, group)
    return True


def open_device(w: World) -> bool:
    groups = [
        (by, file, file.what)
        for by, file in files(w, MadeGroup)
        if isinstance(file.what, MadeGroup)
        and file.what.container is not None
        and file.what.container.typed
        and file.what.devices < MOST_DEVICES
    ]
    if not groups:
        return False
    by, file, group = w.pick(groups)
    w.open_device(by, file, w.pick([each for each in group.phb.devices if each.model != "testdev"]).name)
    return True


def close_one(*kinds: type) -> Callable[[World], bool]:
    def make(w: World) -> bool:
        if not (opened := files(w, *kinds)):
            return False
        w.close(*w.pick(opened))
        return True

    return make


def disable(w: World) -> bool:
    if not (working := w.working):
        return False
    file, _, by = w.pick(working)
    w.disable(by, file)
    return True


def api_version(w: World) -> bool:
    return _ask_container(w, "GET_API_VERSION")


def check_extension(w: World) -> bool:
    return _ask_container(w, "CHECK_EXTENSION", w.pick(EXTENSIONS))


def _ask_container(w: World, request: str, value: int | None = None) -> bool:
    if not (containers := files(w, MadeContainer)):
        return False
    w.ioctl(*w.pick(containers), request, value=value)
    return True


def get_status(w: World) -> bool:
    if not (groups := files(w, MadeGroup)):
        return False
    w.ioctl(*w.pick(groups), "GROUP_GET_STATUS")
    return True


def get_info(w: World) -> bool:
    if not (working := w.working):
        return False
    file, _, by = w.pick(working)
    w.ioctl(by, file, w.pick(INFOS))
    return True


# -- out of order


def odd_info(w: World) -> bool:
    """In any state, with any argsz that does not make the kernel write past the struct."""
    if not (containers := files(w, MadeContainer)):
        return False
    long = w.chance(0.5)
    argsz = w.pick((0, 8, 15, 16, 31, 32, 40)) if long else w.pick((0, 8, 15, 16, 24, 31))
    name = "SPAPR_TCE_GET_INFO_DDW" if long else "SPAPR_TCE_GET_INFO"
    w.ioctl(*w.pick(containers), name, {"argsz": argsz} if w.chance(0.7) else {})
    return True


def odd_status(w: World) -> bool:
    if not (groups := files(w, MadeGroup)):
        return False
    w.ioctl(*w.pick(groups), "GROUP_GET_STATUS", {"argsz": w.pick((0, 4, 7, 8, 9, 4096))})
    return True


def odd_type(w: World) -> bool:
    """A container type that is wrong, or set again, or before there is a group."""
    if not (containers := files(w, MadeContainer)):
        return False
    w.set_iommu(*w.pick(containers), SPAPR_TCE if w.chance(0.6) else w.pick(WRONG_TYPES))
    return True


def odd_join(w: World) -> bool:
    """Any group with any file: wrong kinds, full containers, groups that are already in one."""
    if not (groups := files(w, MadeGroup)):
        return False
    by, group = w.pick(groups)
    if w.chance(0.15):
        w.ioctl(by, group, "GROUP_SET_CONTAINER", {"container": NO_FD})
    else:
        w.set_container(by, group, w.pick(by.files))
    return True


def crowd(w: World) -> bool:
    """Two groups in a container before it has a type: one too many for type v1."""
    by = w.pick(w.processes)
    groups = [file for file in by.files if isinstance(file.what, MadeGroup) and not file.what.devices][:2]
    containers = [file for file in by.files if isinstance(file.what, MadeContainer)]
    if len(groups) < CROWD or not containers:
        return False
    container = w.pick(containers)
    for group in groups:
        w.unset_container(by, group)
    for group in groups:
        w.set_container(by, group, container)
    w.set_iommu(by, container, SPAPR_TCE)
    if w.v2 and not any(group.phb.window_start for group in w.groups):
        w.set_iommu(by, container, SPAPR_TCE_V2)
    return True


def gather(w: World) -> bool:
    """One more group for a container of type v2, which takes it while it has no window."""
    found = joinable(w, gathered=True)
    if found:
        w.set_container(*w.pick(found))
    return bool(found)


def odd_leave(w: World) -> bool:
    """Leave without a container, or despite open devices."""
    groups = [
        (by, file)
        for by, file in files(w, MadeGroup)
        if isinstance(file.what, MadeGroup) and (file.what.container is None or file.what.devices)
    ]
    if not groups:
        return False
    w.unset_container(*w.pick(groups))
    return True


def odd_enable(w: World) -> bool:
    if not (containers := files(w, MadeContainer)):
        return False
    w.enable(*w.pick(containers))
    return True


def odd_disable(w: World) -> bool:
    if not (containers := files(w, MadeContainer)):
        return False
    w.disable(*w.pick(containers))
    return True


def odd_device(w: World) -> bool:
    """A device that the group does not have, or a group that is not ready."""
    if not (groups := files(w, MadeGroup)):
        return False
    by, file = w.pick(groups)
    names = [each.name for group in w.groups for each in group.phb.devices if each.model != "testdev"]
    w.open_device(by, file, w.pick((*names, "", "nobody", "ffff:00:00.0")))
    return True


def open_again(w: World) -> bool:
    """A group that is already open, or that the user may not open."""
    by, group = w.pick(w.processes), w.pick(w.groups)
    if group.file is None and by.root:
        return False
    w.open_group(by, group)
    return True


def open_nothing(w: World) -> bool:
    w.open_nothing(w.pick(w.processes), "/dev/vfio/4095")
    return True


def use_nothing(w: World) -> bool:
    """Use a file that could not be opened, like a program that ignores errors."""
    if not (nothing := files(w, type(None))):
        return False
    by, file = w.pick(nothing)
    if w.chance(0.5):
        w.close(by, file)
    else:
        w.ioctl(by, file, w.pick(("GROUP_GET_STATUS", "GET_API_VERSION", "ENABLE", "MAP_DMA")))
    return True


def unknown_request(w: World) -> bool:
    if not (opened := files(w, MadeContainer, MadeGroup)):
        return False
    w.ioctl(*w.pick(opened), w.pick(UNKNOWN_REQUESTS))
    return True


def misplaced_request(w: World) -> bool:
    if not (opened := files(w, MadeContainer, MadeGroup, MadeDevice)):
        return False
    by, file = w.pick(opened)
    if isinstance(file.what, MadeContainer) and file.what.v2 is not None:
        return False  # where these are in their place
    w.ioctl(by, file, w.pick(MISPLACED[type(file.what)]))
    return True
