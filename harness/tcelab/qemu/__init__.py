"""The platform `qemu`: a real ppc64 kernel in a pseries guest under TCG, seen from outside.

Only this package knows asyncio; what it offers is synchronous.
"""
