"""What a worker decides and counts: which versions to load, to drain and to let go of, in how much memory; how much
work it has done.

Pure: no clock, no tasks, no runtime. The keeper tells it what happened and carries out what it says.
"""
