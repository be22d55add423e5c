"""Does a command leave mappings behind? The kernel's own drivers do DMA, and every table is watched from outside.

- `check`: one leak check, from the baseline to the tables after the unbind
- `counts`: which hypercalls were made, how often, with how many entries
- `directions`: compares what was stored with what drivers asked for
- `dmaapi`: what drivers ask of the kernel's DMA API, from its trace events
- `drivers`: what is typed in the guest to bind and unbind drivers
- `judge`: decides which entries are findings: those that stayed, that outlived the unbind, that no driver may make
- `leakresult`: what a leak check found, as plain data for `result.json`
- `trace`: hypercalls, from QEMU's trace
- `tracefollower`: follows both traces as they come
- `tracereplay`: the tables as the trace of hypercalls makes them
"""
