"""The synchronizer towards the routers: route tables go out, acknowledgements and wishes come in.

What a table says is the core's business.
"""
