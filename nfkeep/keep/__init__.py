"""The heart: what a change does to state, what to do about it, and the report of what came of it."""
