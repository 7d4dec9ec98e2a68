"""Closeness: the round trip to every other host over the mesh, measured all the time (docs/mesh.md)."""
