"""gRPC as it lies on HTTP/2: messages behind a prefix of five bytes, a status in the trailers, a deadline in the head.

After gRPC's "PROTOCOL-HTTP2": https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. Owns the bytes; never
looks into a message, and never decides what a status means for a request.
"""
