"""Turns what tenants and operators ask for into assignments of versions to jobs, and persists them.

The only component that speaks SQL. It never talks to a worker or a router, and never executes an artifact.
"""
