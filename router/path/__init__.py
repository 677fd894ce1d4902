"""What a request passes through, from its head to the last byte of its answer.

`inbound` speaks with the client. `race` carries copies to replicas until one has answered. `upstream` speaks with the
replicas. `answering` has the answers that come from no replica. `watchers` observe. They share the modules beside them.
Decides nothing: `router.core` does. Makes no task, future or timer for a request.
"""
