"""What a worker decides: which versions to load, to drain and to let go of, and in how much memory.

Pure: no clock, no tasks, no runtime; the keeper tells it what happened and carries out what it says.
"""
