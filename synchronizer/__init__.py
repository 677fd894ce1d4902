"""Makes the replicas of one cell hold what the controller desires, and tells routers what they really hold.

It never speaks SQL, never sees a tensor, and never invents desired state.
"""
