"""What containers charge a process for, and which pages they pin.

Source: drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_enable, tce_iommu_create_table and tce_iommu_register_pages with
arch/powerpc/mm/book3s64/iommu_api.c, mm_iommu_do_alloc: whole CPU pages, of whoever enabled the container or registered
memory first (tce_iommu_mm_set). A region counts once, however many containers it is registered with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tceagent import uapi
from tcelab.judge.models.drivermodel import V2, DriverModel
from tcelab.judge.models.files import ContainerModel, GroupModel
from tcelab.run.record import Facts

SPAPR_TCE: Final = uapi.SPAPR_TCE_IOMMU
"""VFIO_SPAPR_TCE_IOMMU."""
NO_TABLE_CHARGE: Final = {"seed2013"}
"""Profiles of the driver that do not charge for a window's table."""


def charged(groups: Iterable[GroupModel], driver: DriverModel, facts: Facts, process: str) -> int | None:
    """KiB of locked memory; None for a container type without a rule for charges."""
    used = _containers(groups)
    if any(container.kind not in {SPAPR_TCE, V2} for container in used):
        return None
    pages = sum(size // facts.page_size for owner, _, size in _registered(used, driver) if owner == process)
    for container in used:
        if container.payer != process:
            continue
        if container.kind == SPAPR_TCE and container.enabled:
            pages += sum(group.phb.window_size // facts.page_size for group in container.groups)
        if facts.profile not in NO_TABLE_CHARGE:
            pages += sum(each.entries * 8 // facts.page_size for each in container.windows)
    return pages * facts.page_size // 1024


def pinned(groups: Iterable[GroupModel], driver: DriverModel, facts: Facts) -> int:
    """Page pins: one for each live entry of a v1 container; one for each registered CPU page of a v2 container, mapped
    or not; and the imbalance that hypercalls caused.
    """
    used = _containers(list(groups := list(groups)))
    registered = (sum(size for _, _, size in _registered(used, driver)) + driver.lost) // facts.page_size
    return registered + sum(table.pinned for group in groups for table in group.windows.active) + driver.pins.off


def _containers(groups: Iterable[GroupModel]) -> list[ContainerModel]:
    """Containers that have a driver, each once."""
    found = (group.container for group in groups)
    return list({id(each): each for each in found if each is not None and each.kind is not None}.values())


def _registered(containers: Iterable[ContainerModel], driver: DriverModel) -> set[tuple[str, int, int]]:
    """Registered memory: process, address, bytes."""
    here = {(each.payer or "", *region) for each in containers for region in each.regions}
    return here | driver.kept()
