"""Performs programs on sessions, and records what happened.

- `exitcode`: the exit codes, and what decides on them
- `flown`: what came of a device in flight over an event
- `guestfits`: does a guest fit a program?
- `join`: one record of the records of a program's parts
- `loop`: performs a program on a session
- `record`: what happened
- `resultfile`: what each `result.json` holds
- `session`: the interface of a platform
"""
