"""An upload on its way to becoming a version: received, stored, inspected, placed.

Owns the bytes until a version owns them: the spool, what is read from the file, the steps and who takes them. Parses
artifacts with bounds and never runs them. Does not decide where a version is placed (`controller.usecases.versions`),
and knows nothing of HTTP.
"""
