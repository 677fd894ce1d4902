"""Fuzzing by hand, with atheris: a target per parser, and the corpus that each has found."""
