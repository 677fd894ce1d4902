"""NVIDIA Triton as a runtime: a tritonserver of the worker's own, in explicit model control, one model per servable.

It owns that process, its model repository and its shared memory, and puts right what breaks in them. Tenants upload
ONNX; every line of Python that runs inside Triton is `onnx_model.py`, ours. Triton's port is for this process alone:
loopback only, and mutual TLS where the deployment has it.
"""
