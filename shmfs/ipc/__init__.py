"""The doors to the same pages beside a name: System V shared memory and shared anonymous mappings."""
