"""Answers clients: authenticates, resolves a model to replicas that hold it, forwards bytes, hedges and retries.

It never decodes a tensor and never calls the controller while a request waits.
"""
