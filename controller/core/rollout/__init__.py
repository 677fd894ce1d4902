"""How a model moves from version to version, in all of its cells: what is stored and what is observed in, one plan out.

Owns which version answers by default (`target`), which cells are to hold it (`homes`), what may be let go (`release`),
what is gone (`leaving`), what is told (`announcing`), what jobs are woken for (`arrival`), and all of it together
(`plan`). Speaks version numbers, cells and jobs. Knows no rows, reads no clock, and writes nothing.
"""
