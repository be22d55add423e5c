"""Random programs, and the smallest program that shows the same failure. Knows programs, not platforms.

- `campaign`: runs programs side by side on fresh guests, and shrinks and saves what differs
- `drivenpe`: what the driver of the kernel's DMA API has
- `drivers`: random steps of a driver of the kernel's DMA API, on a PE of its own
- `faults`: the ways in which a map or an unmap may be wrong
- `fuzzresult`: `result.json` of a campaign
- `generate`: makes one random program
- `hazard`: operations that are never run, because they would hang the kernel
- `keptprogram`: the program of a finding, as it is shrunk and as it is kept
- `lifecycle`: random steps in the lives of containers, groups and devices
- `madethings`: the processes, memory, files, containers, groups and devices of a random program
- `mapping`: random maps and unmaps that should work
- `moves`: what a random program does next, and how often
- `piece`: one program of a campaign, run in a process of its own
- `processes`: random processes, their memory, and what devices do with it
- `randomhcalls`: random hypercalls, right and wrong
- `regions`: random steps with a container of type v2
- `samefailure`: decides whether a smaller program still shows the same failure
- `shrink`: delta debugging over operations, then over their arguments
- `simpler`: simpler forms of operations
- `simplerdma`: simpler forms of operations of the DMA API
- `simplerhcalls`: simpler forms of hypercalls
- `tally`: counts what a campaign did
- `turns`: which programs a campaign consists of
- `world`: a program under construction, and the state that its operations have probably produced
"""
