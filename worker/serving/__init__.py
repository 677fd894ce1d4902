"""Answers inference over REST and gRPC on what the worker holds, for peers that present the deployment's credential.

It owns connections, deadlines and the counting of requests; it never decides what is held, and never loads.
"""
