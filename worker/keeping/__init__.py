"""Makes a runtime hold what the worker was told to hold: artifacts on disk, loads and unloads, memory, lending.

It carries out what `worker.core` decides. It never decides itself what to load, and knows of requests only that
somebody borrows a version.
"""
