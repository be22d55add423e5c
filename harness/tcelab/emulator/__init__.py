"""A Python emulator of the paravirtual TCE driver and everything below it.

The agent's code runs on it in this process, as it does in a guest. It is the reference for every guest's run, a
platform of its own, and the readable statement of the driver's rules (`profiles`).

- `addressspaces`: frames of RAM with their pins, and address spaces of processes (mm)
- `checks`: the shape of a rule: what a request checks, in which order, and what each failure returns
- `dmafile`: the file of the driver `tce_dma`: the kernel's own DMA API
- `dmaheld`: what the driver of the DMA API holds for a program
- `dmastate`: what the kernel keeps of devices of that driver
- `drivertable`: a driver as a table of such rules
- `edudevice`: the device `edu`
- `effects_2013`: what the driver of May 2013 does once no check fails
- `effects_v1`: what the v1 driver does once no check fails
- `effects_v2`: what the v2 driver does once no check fails: it creates and removes windows
- `emulatedguard`: freezes a PE of the emulated machine when one of its devices violates its table
- `emulatedkernel`: the emulated kernel as the agent asks it
- `emulatorsession`: the platform `emulator` as a `Session`
- `events`: events of a container that a preset state waits for
- `flights`: a device in flight over an event
- `followingsession`: repeats on one session what another has done
- `growth`: memory that comes and goes, and the windows in which all of it is mapped
- `hcallfile`: the file of the module `tce_hcall`
- `life`: events in the life of a table
- `pci`: configuration space and registers of a PCI device, and the condition of its PE
- `platform`: the machine: PHBs, tables, devices, RAM, clock, kernel log
- `preset_states`: states that no program can make, set up before it begins
- `probedevice`: the device `probe`
- `process`: processes: files, user, limit of locked memory
- `profiles`: the rules of each kernel: which checks, which errno, which defects
- `quirkspage`: `docs/quirks.md`: all known defects of kernels, made from `tcelab.quirks`
- `reference`: the emulator as the reference of another platform's run
- `syscallerrors`: errors of a system call, of an oops, and of what is not modelled
- `testdevice`: the device `iommu-testdev`
- `vfiocore`: VFIO's core: container and group files
- `vfiopci`: a device's file: regions, interrupts, configuration
- `virtiodevice`: the device `virtio-blk`
"""

from tcelab.emulator.emulatorsession import EmulatorSession

__all__ = ["EmulatorSession"]
