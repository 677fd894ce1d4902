"""Looks at a machine, a running service or a cluster, and says what is missing. Reads only, and changes nothing."""
