"""tcelab: tests the POWER paravirtual IOMMU (sPAPR TCE) end to end, without POWER hardware."""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # who uses us as a library sees nothing unasked
