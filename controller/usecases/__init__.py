"""What callers can ask for and what observations entail: one function per use case, run inside one transaction.

They speak in records and errors, know nothing of HTTP or gRPC, and never commit.
"""
