"""What is around the cell, as protocols: where replicas are, who leads, and what runs the replicas. Also the registry
folder of one machine. The same on Kubernetes is `synchronizer.cluster`.
"""
