"""The replicas' side: connections by replica and wire, and how a copy of a request is written there.

Knows no client, and never chooses a replica.
"""
