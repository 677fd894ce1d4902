"""ONNX Runtime in this process: loads sessions, runs and frees them, and measures what they take."""
