"""Holds exactly the aspired versions in a runtime, answers inference on them, and reports the truth about both.

It never decides what it should hold, and knows of no other worker. These are its rooms, highest first. Each imports
only what follows its arrow, `core`, and the modules beside the rooms (settings, metrics, cgroup, threads):

    control     → keeping                      what the worker is told, what it reports, whether it is ready
    serving     → runtimes.protocol            a request's bytes, and those of its answer
    keeping     → runtimes.protocol            makes a runtime hold what the worker was told to hold
    scheduling  → runtimes.protocol and .local where a run takes place, and how long it may take
    runtimes                                   ONNX Runtime in this process, Triton beside it: load, run, free
    core                                       decisions and sums: pure

`service` puts the rooms together; only `opening` knows which runtimes there are.
"""
