"""Real VFIO pass-through: a guest inside the guest owns a device of the outermost QEMU.

Three levels. L0 is QEMU on this host, which emulates the machine by TCG. L1 is the guest that it runs: Linux with KVM,
and a QEMU of its own. L2 is the guest that L1's QEMU runs, with L0's device passed through by vfio-pci. What L2 enters
into its TCE table goes through L1's KVM and L1's VFIO container to the table that L0 holds. Programs are done in L2;
tables are read at L0.

- `innerqemu`: the command line of L1's QEMU, and what of a topology it can bear.
- `chain`: from L2's pages through L1's to L0's memory, and back.
- `innerviews`: L0's tables as L2 filled them.
- `session`: all three as one session.
- `possible`: which programs can be done in L2.
"""
