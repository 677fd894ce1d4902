"""How fast it is: one command each, a table to read and JSON to keep. Never part of the tests.

Figures that compare are ratios measured in one run with the sides interleaved, because machines differ and are noisy.
"""
