"""The master process: owns listening sockets and shared memory; spawns, watches and replaces every other process.

What to do is decided in ``supervisor`` (pure), done in ``main`` and the modules it joins. The master runs no app's
code, reads no client's byte and never waits for a child, the store or the disk.
"""
