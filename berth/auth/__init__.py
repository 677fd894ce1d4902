"""Who may speak: API keys, and the credential by which the deployment's own processes know each other.

It reads the certificates, follows their rotation and demands them. It never decides what a caller may do.
"""
