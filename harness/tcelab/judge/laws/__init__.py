"""The laws, each in a file of its name."""
