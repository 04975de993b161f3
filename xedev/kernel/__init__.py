"""The bit of kernel that a driver stands on: errors, user memory, locks, ids, waits, traces."""
