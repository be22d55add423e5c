"""The HTML report of a run or of a night."""
