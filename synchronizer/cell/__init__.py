"""The shell of the cell: it owns the cell's state in memory and on disk, and carries out what the core decides.

It queues what the other rooms hear, steps the core, and hands its instructions on; it keeps the lease. It decides
nothing, and knows no message and no network.
"""
