"""Who may talk to whom: API keys for clients, the deployment's credential between processes."""
