"""The other side of an ssh connection on a machine without VFIO: takes Python's place in the command that starts the
agent, and runs it, as it was copied, on an emulated kernel (`far_kernel`).

    python far_side.py '{"topology": "two-pe"}' -I -S -B -c CODE MARK
"""

import importlib.util
import json
import sys
from pathlib import Path


class Hook:
    """Puts the emulated kernel in the place of the real one, once the copied module is there."""

    def __init__(self, options):
        self._options = options

    def find_spec(self, name, path=None, target=None):
        if name != "tceagent.remote":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            # Not before: it imports the agent, which must be the copied one.
            sys.path.append(str(Path(__file__).parent))
            module.RemoteKernel = importlib.import_module("far_kernel").kernel(self._options)

        spec.loader.exec_module = exec_module
        return spec


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.meta_path.insert(0, Hook(json.loads(sys.argv[1])))
    code = sys.argv[sys.argv.index("-c") + 1]
    sys.argv = ["-c", sys.argv[-1]]
    sys.path.pop(0)
    exec(compile(code, "command", "exec"), {"__name__": "__main__"})
