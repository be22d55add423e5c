"""A second kernel in a guest: what is loaded where, so that the first one can jump to it.

kexec-tools would need to be in the guest, and most of what it does is to move tens of megabytes there. Here the first
kernel gets three small pieces by kexec_load(2): a trampoline, a device tree, for a dump an ELF header. Kernel and
initrd are written into guest RAM by the host, while the trampoline waits for them. The guest's kernels do all else
themselves, as after `kexec`.

- `flattree`: the flattened device tree
- `loading`: places, and what of the tree changes
- `serialqueue`: what the agent's channel costs a crash kernel
- `trampoline`: the code between two kernels
"""
