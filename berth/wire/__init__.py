"""The messages between components, and their conversion to and from `berth.model`. Only shells import this."""
