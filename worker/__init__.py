"""Holds exactly the aspired versions in a runtime, answers inference on them, and reports the truth about both.

It never decides what it should hold, and knows of no other worker.
"""
