"""How often random programs are tried: as often as shows what the tests are about, and with `TCELAB_THOROUGH=1`, as
`./scripts/nightly` has it, more often.
"""

import os

THOROUGH = os.environ.get("TCELAB_THOROUGH", "") not in {"", "0"}


def often(usual, thorough):
    return thorough if THOROUGH else usual
