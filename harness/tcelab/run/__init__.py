"""Performs programs on sessions, and records what happened.

- `exitcode`: the exit codes, and what decides on them
- `guestfits`: is a guest what a program needs?
- `join`: one record of the records of a program's parts
- `loop`: performs a program on a session
- `record`: what happened
- `resultfile`: what each `result.json` holds
- `session`: what a platform must be able to do
"""
