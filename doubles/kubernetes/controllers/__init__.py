"""The controllers that a cluster has besides its API server, as far as workloads need them: one module each.

Each is told an object and brings what belongs to it one step nearer; none waits, remembers or is told why.
"""
