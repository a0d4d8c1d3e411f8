"""Compile for accelerators that this machine does not have, and account for the whole call: cycles, memory, registers."""
