"""Other proxies, configured to forward the same requests to the same upstreams as the router. Each on one thread."""
