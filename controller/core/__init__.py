"""The controller's decisions: synchronous, pure, told everything they need.

Owns where a version lives (`placement`), when one replaces another (`rollout`), and how many replicas a job has
(`autoscaling`, `settling`). Owns what may change in jobs (`jobs`, `pools`), what a tenant may have (`quota`), and what
an upload does next (`intake`). Owns how states follow from observations (`status`), and every kind of event (`events`).
Never reads a clock, a database or the network, and imports only `berth`'s vocabulary.
"""
