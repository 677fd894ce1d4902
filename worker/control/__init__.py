"""The worker towards those who direct it: aspired sets come in, reports and the answers to probes go out.

It decides nothing: what a set leads to is the business of `worker.keeping`.
"""
