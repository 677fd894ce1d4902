"""What the controller does unasked, a module for each.

A loop looks, has the core decide, and runs the use case that writes. Every one is level-triggered: a look that comes
twice, or in two controllers at once, does nothing more. Where one controller alone should act, `leadership` says which.
No loop answers a request.
"""
