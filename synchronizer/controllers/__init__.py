"""The synchronizer towards the controllers: the desired state comes in, observations go out.

Any controller will do. Nothing here decides what a desired state leads to.
"""
