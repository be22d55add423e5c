"""tcelab: tests the POWER paravirtual IOMMU (sPAPR TCE) end to end, without POWER hardware.

- `bench`: benchmarks
- `cli`: the command `tcelab`, a module for each verb
- `cluster`: programs and cells on workers, here or of a dask scheduler
- `commandline`: the words of the running command
- `coverage`: what was executed of a guest's kernel
- `device`: PCI devices of our own, processes of the host behind QEMU's vfio-user-pci
- `emulator`: the driver and its platform in Python: a platform of its own, and the reference of others
- `errors`: errors by what the caller can do about them
- `export`: a program as a C file that needs nothing of tcelab
- `fuzz`: random programs, shrunk
- `history`: what became of each cell of each night, kept
- `htmlreport`: a run or a night as one HTML file
- `image`: guests, QEMUs and toolchains, built into the cache
- `job`: a command's work, from what the user chose to what is written
- `judge`: the laws, and the verdict
- `leakcheck`: does a command leave mappings behind?
- `logs`: what is logged, and who sees it
- `nightly`: a night: a matrix of cells, on all cores
- `papr`: the platform's rules, as PAPR and QEMU have them
- `passthrough`: a guest inside the guest, which owns a device
- `program`: programs: operations, topology, checks
- `qemu`: the platform `qemu`: a real kernel in a guest
- `quirks`: known defects, by name
- `report`: results, texts, live displays
- `run`: performs a program, and records what happened
- `scenarios`: programs that tcelab knows by name
- `ssh`: the platform `ssh`: a machine that already runs
- `testing`: the pytest plugin
- `userconfig`: the user's settings
"""

import logging

__version__ = "0.7.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # who uses us as a library sees nothing unasked
