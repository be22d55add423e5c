"""A program that is exported, and what a compiler of this host says of its C file."""

from __future__ import annotations

import subprocess

from tcelab import export

FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-c", "-o", "/dev/null", "-x", "c")


def source(program, **options):
    """The C file."""
    return export.files(program, **options)["reproducer.c"].decode()


def compiles(text, *more):
    """What gcc says; empty: nothing."""
    done = subprocess.run(["gcc", *FLAGS, *more, "-"], input=text, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""
