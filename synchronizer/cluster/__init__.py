"""The cell's cluster, through the API of Kubernetes: where replicas are, what runs them, and who leads.

It writes two things only, the number of replicas of a job's workload and the cell's own Lease; it starts no pod,
deletes none, and knows nothing of models.
"""
