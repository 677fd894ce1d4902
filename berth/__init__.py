"""What two or more components of Berth share: vocabulary, errors, contracts, settings, process start-up.

Nothing here knows a component: `controller`, `synchronizer`, `router` and `worker` import `berth`, never the reverse.
"""
