"""A Kubernetes API server to test against: objects in memory, plain HTTP on loopback, faults on demand.

It answers as the real one does where Berth, kubectl and the Python client look, and passes the same suite
(tests/kubernetes). It knows nothing of Berth, and never validates more of an object than the rules that clients meet.
"""
