"""The Open Inference Protocol v2 between bytes or messages and numpy arrays: REST JSON, binary tensors, gRPC.

Sans-IO: nothing here opens a connection, reads a clock, or knows which model is served where.
"""
