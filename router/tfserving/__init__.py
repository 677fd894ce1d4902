"""TensorFlow Serving's REST surface: its JSON becomes OIP tensors for a worker, and the answer its JSON again.

The one place in the router that decodes tensors, by nature; it never sends a request itself, nor holds a large body
on the event loop. Nothing outside imports what is heavy here before the first such request: numpy costs 12 MB.
"""
