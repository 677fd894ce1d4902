"""Histories of a cell, as data: what it was told and what it answered, step by step; and how to play one again.

A history decides nothing and changes nothing: the cell is stepped by `Cell.step` alone, recorded or not.
"""
