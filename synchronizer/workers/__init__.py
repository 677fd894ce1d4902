"""The synchronizer towards the workers: one stream to each replica, aspired sets out and reports in.

What a set holds is the core's business; whether a replica is lost is decided here, by its stream alone.
"""
