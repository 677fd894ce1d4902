"""What the router knows of the world and tells of itself: the route table and its feed, wishes, metrics, debug pages.

Not on the path of a request, but for the one reference to the table that every request reads.
"""
