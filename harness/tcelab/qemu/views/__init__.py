"""Ways to see the TCE tables that QEMU holds. A reading counts only while the guest is stopped.

- `live`: the table in QEMU's memory
- `stream`: the table in a migration stream
"""
