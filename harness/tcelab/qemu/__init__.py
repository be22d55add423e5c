"""The platform `qemu`: a real ppc64 kernel in a pseries guest under TCG, seen from outside.

Only this package uses asyncio; its interface is synchronous.

- `ability`: can the guest's kernel do VFIO on sPAPR at all?
- `ahead`: forks that are ready before they are asked for
- `basekey`: the hash of all that a base is made of
- `channel`: the agent's channel
- `console`: the guest's console
- `disks`: the disks of a guest
- `dmaapilog`: the trace of the guest kernel's DMA API
- `driven`: a guest whose devices belong to the kernel's own drivers
- `fork`: where sessions come from: forks of a base, or boots
- `freeze`: freezes a PE: stops the DMA and the MMIO of its devices; and thaws it
- `guard`: detects violations, freezes PEs, and answers firmware's EEH services
- `guardeddevice`: a device under guard: its registers and its transfers
- `guest`: a running QEMU and the guest in it
- `hostviews`: what the host sees of a stopped guest
- `interact`: a guest's console for a person
- `kconfig`: what a kernel was built with
- `kernelfile`: what a kernel's file tells before a boot
- `limits`: how long each phase may take
- `livesample`: looks at tables while the guest runs
- `log`: drains QEMU's log and trace
- `machine`: QEMU's command line
- `monitor`: QEMU's monitor (QMP), each command of which is logged
- `network`: the port of the host that leads to a guest's sshd
- `portal`: the one asyncio loop, and the way into it
- `probe`: what a QEMU can do
- `processmemory`: memory of another process
- `qemusession`: the platform `qemu` as a `Session`
- `qtest`: QEMU's test port
- `ram`: guest RAM
- `rom`: option ROMs of ones, which hide a frozen device's registers
- `rtaswindows`: firmware's services for windows, asked from outside
- `standstill`: keeps the guest stopped while anybody needs it stopped
- `tableaddresses`: the host address of each TCE table in QEMU's memory, from the trace
- `tracereader`: which device was told to do what, by QEMU's trace, and which PE is to blame
- `trial`: the program that a guest must pass before it is used
- `typist`: types commands at the guest's shell
- `views`: ways to see the tables
- `waiter`: every wait for a guest, with its limit
"""
