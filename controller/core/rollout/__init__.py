"""How a model moves from version to version in all of its cells: stored and observed facts in, one plan out.

Owns which version answers by default (`target`), which cells hold it (`homes`), what may be let go (`release`), and
what is gone (`leaving`). Owns what is told (`announcing`), what jobs are woken for (`arrival`), and all of it together
(`plan`). Speaks version numbers, cells and jobs. Knows no rows, reads no clock, and writes nothing.
"""
