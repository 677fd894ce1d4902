"""Fakes and material that tests of several components share. Each fake passes the same suite as the real thing.

Nothing that ships imports this, and the wheel does not hold it.
"""
