"""TensorFlow Serving's REST surface: its JSON becomes OIP tensors for a worker, and the answer its JSON again.

By nature the one place in the router that decodes tensors. It never sends a request itself, and never works on a large
body on the event loop. The heavy parts are imported at the first such request, not before: numpy costs 12 MB.
"""
