"""The controller's decisions: synchronous, pure, told everything they need.

Owns where a version lives, when one replaces another, what is reserved and what a tenant may have, and how states are
derived from observations. Never reads a clock, a database or the network, and imports only `berth`'s vocabulary.
"""
