"""tcelab: tests the POWER paravirtual IOMMU (sPAPR TCE) end to end, without POWER hardware."""

__version__ = "0.2.0"
