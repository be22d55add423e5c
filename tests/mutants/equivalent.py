"""Mutants that no run can tell from the original, each with its reason. One that is killed does not belong here.

Those that are equivalent by the way in which they were made say so themselves: see `mutants.derive`.
"""

from __future__ import annotations

ONE_STATUS = "both give EINVAL where there are no defects; with all of them nobody looks at the end"
NOTHING_STORED = "both give H_PARAMETER, and of no pages none is stored"
NO_MM = "what has no mm is not another's, and both give EPERM"
BOUND = "what is bound to one mm is not bound to another"

EQUIVALENT = {
    "linux-v1 MAP_DMA: \"past the window's end\" before 'iova misaligned'": ONE_STATUS,
    "linux-v1 UNMAP_DMA: \"past the window's end\" before 'iova misaligned'": ONE_STATUS,
    "linux-v2 MAP_DMA: \"past the window's end, of a MAP\" before 'iova misaligned'": ONE_STATUS,
    "linux-v2 UNMAP_DMA: \"past the window's end\" before 'iova misaligned'": ONE_STATUS,
    "linux-v2 SPAPR_UNREGISTER_MEMORY: 'no mm' before \"another mm's\"": NO_MM,
    "linux-v2 SPAPR_REGISTER_MEMORY: 'binds' before \"another mm's\"": BOUND,
    "linux-v2 SPAPR_TCE_CREATE: 'binds' before \"another mm's\"": BOUND,
    "linux-v2 SPAPR_TCE_REMOVE: 'binds' before \"another mm's\"": BOUND,
    "core GROUP_UNSET_CONTAINER: 'in use' before 'has no container'": "a group with an open device has a container",
    "hcalls H_STUFF_TCE: 'a page outside the window' before 'no pages'": NOTHING_STORED,
    "hcalls H_PUT_TCE_INDIRECT: 'a page outside the window' before 'no pages'": NOTHING_STORED,
    "hcalls H_STUFF_TCE: 'no pages' stores what it can": NOTHING_STORED,
    "hcalls H_PUT_TCE_INDIRECT: 'no pages' stores what it can": NOTHING_STORED,
}
