"""What loads a version and answers inference on it: `protocol` says what that is, each runtime has a folder of its own.

A runtime never decides what to load, and never reads a request of the network. Only `worker.__main__` imports one.
"""
