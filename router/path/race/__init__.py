"""The copies of one request, from the first that is sent to the one whose answer counts.

Knows no wire: neither the client's nor a replica's.
"""
