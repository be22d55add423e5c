"""Performs programs on sessions, and records what happened.

- `conduct`: what a guest asks of its platform
- `exitcode`: the exit codes, and what decides on them
- `flown`: what came of a device in flight over an event
- `guestfits`: does a guest fit a program?
- `join`: one record of the records of a program's parts
- `loop`: performs a program on a session
- `points`: points between two hypercalls, and what devices reached there
- `record`: what happened
- `resultfile`: what each `result.json` holds
- `serialorder`: an order of hypercalls made at once that explains what they left
- `session`: the interface of a platform
- `sharing`: what did not change between two snapshots is held once
"""
