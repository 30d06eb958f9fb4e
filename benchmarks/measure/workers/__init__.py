"""Processes that are measured; each runs in the interpreter of the software that it is about (`measure.protocol`)."""
