"""Does a command leave mappings behind? The kernel's own drivers do DMA, while every table is watched from outside.

- `check`: one leak check, from the baseline to the tables after the unbind
- `counts`: which hypercalls were made, how often, with how many entries
- `directions`: compares stored entries with the mappings that drivers requested
- `dmaapi`: drivers' requests to the kernel's DMA API, from its trace events
- `drivers`: the commands typed in the guest to bind and unbind drivers
- `judge`: decides which entries are findings: those that stayed, that outlived the unbind, that no driver may make
- `leakresult`: what a leak check found, as plain data for `result.json`
- `trace`: hypercalls, from QEMU's trace
- `tracefollower`: follows both traces as they come
- `tracereplay`: the tables as the trace of hypercalls makes them
"""
