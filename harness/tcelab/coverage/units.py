"""What is recorded by default: source files of Linux by the functions in them, for a kernel's symbols name no file.

Read off arch/powerpc of Linux 5.10 to 6.12. A kernel need not have them all: what it inlines is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec


class Unit(msgspec.Struct, frozen=True):
    """:ivar module: of the kernel, that it is where it is not built in.

    :ivar functions: patterns of their names where it is built in, without what a compiler appends.
    """

    module: str = ""
    functions: tuple[str, ...] = ()


UNITS: Final[Mapping[str, Unit]] = {
    "vfio_iommu_spapr_tce": Unit("vfio_iommu_spapr_tce", ("tce_iommu_*", "tce_page_*", "tce_container_*")),
    "vfio": Unit("vfio", ("vfio_*", "__vfio_*")),
    "kernel/iommu.c": Unit(
        functions=(
            *("__iommu_free", "dev_has_iommu_table", "group_release", "iommu_add_device", "iommu_del_device"),
            *("iommu_alloc", "iommu_alloc_coherent", "iommu_direction_to_tce_perm", "iommu_flush_tce", "iommu_free"),
            *("iommu_free_coherent", "iommu_init_table", "iommu_map_page", "iommu_range_alloc", "iommu_register_group"),
            *("iommu_release_ownership", "iommu_table_clear", "iommu_table_in_use"),
            *("iommu_table_reserve_pages", "iommu_take_ownership", "iommu_tce_*", "iommu_unmap_page"),
            *("ppc_iommu_map_sg", "ppc_iommu_unmap_sg", "ppc_iommu_register_device", "ppc_iommu_unregister_device"),
            *("spapr_tce_blocked_iommu_attach_dev", "spapr_tce_iommu_*", "spapr_tce_platform_iommu_attach_dev"),
            "tce_iommu_bus_notifier",
        )
    ),
    "pseries/iommu.c": Unit(
        functions=(
            *("clean_dma_window", "copy_property", "create_ddw", "ddw_property_create", "ddw_memory_hotplug_max"),
            *("enable_ddw", "disable_ddw_setup", "dma_set_mask_pSeriesLP", "find_existing_ddw*", "iommu_mem_notifier"),
            *("iommu_bypass_supported_pSeriesLP", "iommu_pseries_alloc_group", "iommu_pseries_alloc_table"),
            *("iommu_pseries_free_group", "iommu_reconfig_notifier", "iommu_table_setparms*"),
            "pSeries_pci_device_group",
            *("pci_dma_bus_setup_pSeries*", "pci_dma_dev_setup_pSeries*", "pci_dma_find", "query_ddw"),
            *("query_page_size_to_mask", "__remove_dma_window", "remove_dma_window*", "remove_ddw", "reset_dma_window"),
            *("spapr_tce_create_table", "spapr_tce_get_table_size", "spapr_tce_release_ownership"),
            *("spapr_tce_set_window", "spapr_tce_take_ownership", "spapr_tce_unset_window"),
            *("tce_build*_pSeries*", "tce_clear*_pSeries*", "tce_exchange_pseries", "tce_free*_pSeries*"),
            *("tce_get_pSeries*", "tce_get_pseries", "tce_setrange_multi_pSeriesLP*", "tce_useraddr_pSeriesLP"),
        )
    ),
    "pseries/eeh_pseries.c": Unit(
        functions=(
            *("pseries_eeh_*", "pseries_notify_resume", "pseries_pcibios_bus_add_device"),
            "pseries_send_allow_unfreeze",
        )
    ),
    "kernel/dma-iommu.c": Unit(functions=("dma_iommu_*", "arch_dma_*_direct", "dma_direct_get_required_mask")),
}
"""By the name for `--coverage-of`: the path below arch/powerpc or arch/powerpc/platforms, or the module's."""
DEFAULT: Final = (*("vfio_iommu_spapr_tce", "vfio", "kernel/iommu.c", "pseries/iommu.c", "pseries/eeh_pseries.c"),)
"""What is recorded unless something else is named."""
