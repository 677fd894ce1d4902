"""The artifact store: immutable objects named by the SHA-256 of their bytes, in a folder or an S3 bucket.

Guarantees that an object is visible whole or not at all, and that its bytes match its name. Knows nothing of tenants,
models or formats, and never decides which objects are still needed.
"""
