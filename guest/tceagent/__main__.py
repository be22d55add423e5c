"""The agent's start: `python3 -I -S -B -c "..."` by init, or `python3 -m tceagent`."""

from __future__ import annotations

from tceagent.agent import Agent, serve
from tceagent.kernel import LinuxKernel
from tceagent.ports import find_port
from tceagent.wire import Channel


def main() -> None:
    kernel = LinuxKernel()
    serve(Agent(kernel), Channel(kernel.open(find_port(kernel))))


if __name__ == "__main__":
    main()
