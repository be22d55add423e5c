"""The platform's rules as PAPR and QEMU's pseries machine have them: pure, importing nothing of ours.

- `conductrules`: what a guest's kernel may not ask for
- `dmarules`: which pieces of a device's transfer pass, and which are refused
- `hcallnumbers`: opcodes and statuses of the TCE hypercalls
- `hcallrules`: the rules of H_GET_TCE, H_PUT_TCE, H_STUFF_TCE and H_PUT_TCE_INDIRECT
- `isolationrules`: the conditions of a PE, what freezes it, and the services that bring it back
- `kvmrules`: the rules of KVM for these hypercalls
- `tce`: the translation control entry, one 64-bit word
- `tcetable`: one TCE table
- `window`: default windows, and the numbers that name windows
- `windowcreation`: creates and removes windows (DDW): decides which LIOBN and bus address each gets
"""
