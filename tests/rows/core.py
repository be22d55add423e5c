"""The VFIO core today: containers, groups and devices, whatever the IOMMU driver (drivers/vfio, Linux 6.12)."""

from __future__ import annotations

from typing import Final

from rows import core_device
from rows.row import (
    BOTH,
    CONTAINER,
    DEVICE,
    GROUP,
    NOBODY,
    NOWHERE,
    PE1,
    PE2,
    UNKNOWN,
    WRITABLE,
    Row,
    call,
    child,
    closed,
    closing,
    enable,
    enabled,
    ended,
    get_device,
    joined,
    look,
    mapping,
    on_joined,
    open_container,
    open_group,
    opened,
    passing,
    put,
    refused,
    set_container,
    set_iommu,
    unset_container,
)
from tcelab.program import Open, Page

CORE: Final = "drivers/vfio/container.c"
GROUPS: Final = "drivers/vfio/group.c"
CONTAINER_IOCTL: Final = f"{CORE}, vfio_fops_unl_ioctl"
SET_IOMMU: Final = f"{CORE}, vfio_ioctl_set_iommu"
STATUS: Final = f"{GROUPS}, vfio_group_ioctl_get_status"
SET_CONTAINER: Final = f"{GROUPS}, vfio_group_ioctl_set_container"
UNSET_CONTAINER: Final = f"{GROUPS}, vfio_group_ioctl_unset_container"
VIABLE: Final = 1
CONTAINER_SET: Final = 2
NO_FILE: Final = 9999

OPENED: Final = (
    Row(
        "Containers are for everybody and independent of each other",
        f"{CORE}, vfio_fops_open, vfio_dev.mode",
        (
            open_container(),
            open_container(2),
            child("open-1", uid=NOBODY),
            Open(file="own", path="/dev/vfio/vfio", expect="ok", by="open-1"),
            call("GET_API_VERSION", 0, file="own", by="open-1"),
            ended("open-1"),
            call("GET_API_VERSION", 0),
            call("GET_API_VERSION", 0, file="c2"),
            *closed("c", "c2"),
        ),
    ),
    Row(
        "A group's file is root's",
        "fs/namei.c, may_open; the mode of a device node of devtmpfs",
        (child("open-2", uid=NOBODY), *refused("/dev/vfio/$pe1", "EACCES", by="open-2"), ended("open-2")),
    ),
    Row(
        "A group's file may be used by anybody who has inherited it",
        f"{GROUPS}, vfio_group_fops_unl_ioctl: no permission is asked for",
        (
            *opened(),
            child("open-3", uid=NOBODY),
            call("GROUP_SET_CONTAINER", file=GROUP, container=CONTAINER, by="open-3"),
            passing(2, "SET_IOMMU", by="open-3"),
            ended("open-3"),
            enable(),
            mapping(0),
            *closed(),
        ),
    ),
    Row(
        "A group can be opened once at a time",
        f"{GROUPS}, vfio_group_fops_open, group->opened_file",
        (
            open_group(),
            *refused("/dev/vfio/$pe1", "EBUSY"),
            open_group(2),
            *closing("g", "g2"),
            open_group(),
            *closed("g"),
        ),
    ),
    Row(
        "A group whose device is open cannot be opened again",
        f"{GROUPS}, vfio_group_fops_release: device files hold the group's",
        (
            *joined(),
            get_device(file=DEVICE),
            *closing(GROUP),
            *refused("/dev/vfio/$pe1", "EBUSY"),
            *closing(DEVICE),
            open_group(),
            *closed(),
        ),
    ),
    Row(
        "A group that does not exist has no file",
        f"{GROUPS}, vfio_create_group",
        refused("/dev/vfio/9999", "ENOENT"),
    ),
)

BARE: Final = (
    Row(
        "A container without an IOMMU driver knows three requests, everything else is EINVAL",
        f"{CONTAINER_IOCTL}, driver",
        (
            open_container(),
            call("GET_API_VERSION", 0),
            passing(2, "CHECK_EXTENSION", 1),
            passing(2, "SET_IOMMU", "EINVAL"),
            call("SPAPR_TCE_GET_INFO", "EINVAL"),
            mapping(0, expect="EINVAL"),
            call("UNMAP_DMA", "EINVAL"),
            call("ENABLE", "EINVAL"),
            call("DISABLE", "EINVAL"),
            call("EEH_PE_OP", "EINVAL"),
            passing(NOWHERE, "MAP_DMA", "EINVAL"),
            passing(0, UNKNOWN, "EINVAL"),
            *closed(CONTAINER),
        ),
    ),
    Row(
        "A group in it changes nothing of that",
        f"{CONTAINER_IOCTL}, driver",
        (
            *opened(),
            set_container(),
            call("SPAPR_TCE_GET_INFO", "EINVAL"),
            enable("EINVAL"),
            passing(0, UNKNOWN, "EINVAL"),
            *closed(),
        ),
    ),
    Row(
        "Once its last group has left, a container is as it was at first",
        f"{CORE}, vfio_group_detach_container, list_empty",
        (
            *enabled(),
            mapping(0),
            unset_container(),
            mapping(0, expect="EINVAL"),
            call("DISABLE", "EINVAL"),
            set_iommu("EINVAL"),
            set_container(),
            mapping(0, expect="EINVAL"),
            set_iommu(),
            mapping(0, expect="EPERM"),
            *closed(),
        ),
    ),
    Row(
        "GET_API_VERSION is 0 in every state",
        f"{CONTAINER_IOCTL}, VFIO_GET_API_VERSION",
        (
            *enabled(),
            call("GET_API_VERSION", 0),
            child("bare-1"),
            call("GET_API_VERSION", 0, by="bare-1"),
            ended("bare-1"),
            *closed(),
        ),
    ),
    Row(
        "Requests of groups and devices are none of a container's",
        f"{CONTAINER_IOCTL}, driver; drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_ioctl, the end",
        (
            *opened(),
            call("GROUP_GET_STATUS", "EINVAL"),
            call("DEVICE_GET_INFO", "EINVAL"),
            set_container(),
            set_iommu(),
            call("GROUP_GET_STATUS", "ENOTTY"),
            call("DEVICE_GET_INFO", "ENOTTY"),
            *closed(),
        ),
    ),
)

IOMMUS: Final = (
    Row(
        "SET_IOMMU without a group is EINVAL, whatever the type",
        f"{SET_IOMMU}, list_empty",
        (*opened(), set_iommu("EINVAL"), set_iommu("EINVAL", kind=1), *closed()),
    ),
    Row(
        "SET_IOMMU twice is EINVAL, whatever the type",
        f"{SET_IOMMU}, container->iommu_driver",
        on_joined(set_iommu("EINVAL"), set_iommu("EINVAL", kind=7), set_iommu("EINVAL", kind=1), enable(), mapping(0)),
    ),
    Row(
        "SET_IOMMU of a type that no driver has is ENODEV, and another may be tried",
        f"{SET_IOMMU}, VFIO_CHECK_EXTENSION",
        (
            *opened(),
            set_container(),
            *(set_iommu("ENODEV", kind=kind) for kind in (0, 1, 3, 5, 8, 0x100000002)),
            set_iommu(),
            *closed(),
        ),
    ),
)

STATES: Final = (
    Row(
        "GET_STATUS of a group without container says viable",
        STATUS,
        (open_group(), call("GROUP_GET_STATUS", file=GROUP, flags=0xFF), *closed(GROUP)),
        says={"flags": VIABLE},
    ),
    Row(
        "GET_STATUS of a group with container says so",
        STATUS,
        (*opened(), set_container(), call("GROUP_GET_STATUS", file=GROUP), *closed()),
        says={"flags": VIABLE | CONTAINER_SET},
    ),
    Row(
        "GET_STATUS of a group that has left its container says viable",
        STATUS,
        (*joined(), unset_container(), call("GROUP_GET_STATUS", file=GROUP), *closed()),
        says={"flags": VIABLE},
    ),
    Row(
        "GET_STATUS checks its struct",
        f"{STATUS}, copy_from_user, argsz",
        (
            open_group(),
            passing(NOWHERE, "GROUP_GET_STATUS", "EFAULT", file=GROUP),
            call("GROUP_GET_STATUS", "EINVAL", file=GROUP, argsz=7),
            call("GROUP_GET_STATUS", file=GROUP, argsz=0xFFFFFFFF),
            *closed(GROUP),
        ),
    ),
    Row(
        "GET_STATUS into memory that cannot be written is EFAULT",
        f"{STATUS}, copy_to_user",
        (
            open_group(),
            *put("GROUP_GET_STATUS"),
            passing(Page("rw"), "GROUP_GET_STATUS", "EFAULT", file=GROUP),
            WRITABLE,
            *put("GROUP_GET_STATUS", argsz=7),
            passing(Page("rw"), "GROUP_GET_STATUS", "EINVAL", file=GROUP),
            WRITABLE,
            *closed(GROUP),
        ),
    ),
    Row(
        "An unknown request to a group is ENOTTY",
        f"{GROUPS}, vfio_group_fops_unl_ioctl, default",
        (
            open_group(),
            passing(0, UNKNOWN, "ENOTTY", file=GROUP),
            call("GET_API_VERSION", "ENOTTY", file=GROUP),
            call("DEVICE_GET_INFO", "ENOTTY", file=GROUP),
            *closed(GROUP),
        ),
    ),
)

JOINED: Final = (
    Row(
        "SET_CONTAINER with an argument that cannot be read is EFAULT",
        f"{SET_CONTAINER}, get_user",
        (*opened(), passing(NOWHERE, "GROUP_SET_CONTAINER", "EFAULT", file=GROUP), set_container(), *closed()),
    ),
    Row(
        "SET_CONTAINER of no file is EBADF, even for a group that has a container",
        f"{SET_CONTAINER}, fdget before vfio_group_has_iommu",
        (
            *opened(),
            set_container("EBADF", container=NO_FILE),
            set_container(),
            set_container("EBADF", container=NO_FILE),
            passing(NOWHERE, "GROUP_SET_CONTAINER", "EFAULT", file=GROUP),
            *closed(),
        ),
    ),
    Row(
        "SET_CONTAINER of a file that is no container is EBADFD",
        f"{SET_CONTAINER}, the end",
        (
            *opened(),
            open_group(2),
            set_container("EBADFD", container=GROUP),
            set_container("EBADFD", container="g2"),
            *closed("g", "g2", "c"),
        ),
    ),
    Row(
        "SET_CONTAINER of a group that has one is EINVAL, whatever the file",
        f"{SET_CONTAINER}, vfio_group_has_iommu before vfio_container_from_file",
        (
            *opened(),
            open_container(2),
            set_container(),
            set_container("EINVAL"),
            set_container("EINVAL", container="c2"),
            set_container("EINVAL", container=GROUP),
            *closed("g", "c", "c2"),
        ),
    ),
    Row(
        "UNSET_CONTAINER of a group without one is EINVAL",
        f"{UNSET_CONTAINER}, vfio_group_has_iommu",
        (
            *opened(),
            unset_container("EINVAL"),
            set_container(),
            unset_container(),
            unset_container("EINVAL"),
            *closed(),
        ),
    ),
    Row(
        "UNSET_CONTAINER while a device is open is EBUSY, and what is mapped stays",
        f"{UNSET_CONTAINER}, container_users",
        (
            *enabled(),
            mapping(0),
            get_device(file=DEVICE),
            unset_container("EBUSY"),
            look(),
            *closing(DEVICE),
            unset_container(),
            *closed(),
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "UNSET_CONTAINER waits for the last of a device's files",
        f"{UNSET_CONTAINER}, container_users; drivers/vfio/vfio_main.c, vfio_df_open",
        (
            *joined(),
            get_device(file=DEVICE),
            get_device(file="d2"),
            *closing(DEVICE),
            unset_container("EBUSY"),
            *closing("d2"),
            unset_container(),
            *closed(),
        ),
    ),
    Row(
        "A device's file keeps group, container and what is mapped",
        f"{CORE}, vfio_group_use_container, get_file",
        (
            *enabled(),
            mapping(0),
            get_device(file=DEVICE),
            *closing(GROUP, CONTAINER),
            look(),
            *closed(DEVICE),
        ),
        tables={PE1: ((0, "m", 0, 3),)},
    ),
    Row(
        "A group without driver lets go when it is closed, and may be opened again",
        f"{GROUPS}, vfio_group_fops_release",
        (*opened(), set_container(), *closing(GROUP), open_group(), set_container(), set_iommu(), *closed()),
    ),
    Row(
        "Two containers with a group each do not see each other",
        f"{CORE}, vfio_container_attach_group",
        (*enabled(), *enabled(2), mapping(0), mapping(0x1000, pe=2), look(), *closed(*BOTH)),
        tables={PE1: ((0, "m", 0, 3),), PE2: ((0x1000, "m", 0, 3),)},
    ),
)

ROWS: Final = (*OPENED, *BARE, *IOMMUS, *STATES, *JOINED, *core_device.ROWS)
