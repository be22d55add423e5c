"""Performs programs on sessions, and records what happened.

- `guestfits`: is a guest what a program needs?
- `loop`: performs a program on a session
- `record`: what happened
- `session`: what a platform must be able to do
"""
