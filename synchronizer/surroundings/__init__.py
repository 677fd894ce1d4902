"""What is around the cell: where replicas are, who leads, and what runs the replicas, as protocols; and the registry
folder of one machine. The same on Kubernetes is `synchronizer.cluster`.
"""
