"""Ways to see the TCE tables that QEMU holds. A reading counts only while the guest is stopped."""
