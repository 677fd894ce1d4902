"""The controller's decisions: synchronous, pure, told everything they need.

Owns where a version lives (`placement`), when one replaces another (`rollout`), how many replicas a job has
(`autoscaling`, `settling`), what may be changed of jobs (`jobs`, `pools`), what a tenant may have (`quota`), what an
upload does next (`intake`), how states are derived from observations (`status`), and every kind of event (`events`).
Never reads a clock, a database or the network, and imports only `berth`'s vocabulary.
"""
