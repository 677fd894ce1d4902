"""What callers can ask for and what observations entail: one function per use case, run inside one transaction.

A use case reads rows, asks the core, and writes what it says. A use case that somebody asked for takes their `Command`.
It tells what it changed as an event of the catalogue (`core.events`). Use cases speak in records, values and errors.
They know nothing of HTTP, gRPC, columns or the API's schemas, and never commit.
"""
