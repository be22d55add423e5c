"""What must be true after operations that succeeded: the fold, and what it is made of.

- `chargemodel`: what containers charge a process for
- `comparison`: differences between two runs of one program
- `consolelines`: which console lines are reported, and which a declared quirk explains
- `directmodel`: windows in which the kernel maps all RAM
- `diskmodel`: what a virtio-blk device must hold
- `dmamodel`: what the kernel's DMA API must have done
- `drivermodel`: what a container's driver does when it succeeds
- `edumodel`: what an edu must hold
- `eventfold`: the fold over such events
- `files`: who has which container, group or device open
- `flightmodel`: what a device in flight over an event must do
- `fold`: what must be true after the operations that succeeded
- `hotplugmodel`: what is right after a device or a PHB came or went
- `hypercallmodel`: what must be true after raw hypercalls
- `lifemodel`: what is right after each event in the life of a table
- `memorymodel`: what guest memory must hold
- `meters`: counters of the kernel that move as the fold does
- `pes`: the condition of each PE, and its observable effects
- `pinmodel`: pins without an entry of VFIO
- `racemodel`: what hypercalls that were made at once have left
- `reading`: one snapshot, sorted for the laws
- `requests`: what the fold knows of ioctl requests
- `rounds`: a `Repeat` as single calls
- `side`: one of two runs that are compared
- `tablemodel`: what one TCE table must hold
- `transfers`: the effects of the devices' transfers
- `windowmodel`: the windows of a PE
"""
