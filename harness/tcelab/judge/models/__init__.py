"""What must be true after operations that succeeded: the fold, and what it is made of."""
