"""The router's knowledge of the world and its reports on itself: route table and feed, wishes, metrics, debug pages.

Off the path of requests, except for one thing: every request reads the reference to the table.
"""
