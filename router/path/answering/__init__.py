"""Answers that come from no replica. Never asks one."""
