"""The control process: the slow I/O that traffic never waits for. ``main`` starts and stops the parts."""
