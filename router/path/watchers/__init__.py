"""What is told of a request: spans, counts, a log line. Observes, and changes nothing."""
