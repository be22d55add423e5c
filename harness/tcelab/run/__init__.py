"""Performs programs on sessions, and records what happened."""
