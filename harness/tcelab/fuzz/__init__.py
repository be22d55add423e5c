"""Random programs, and the smallest program that shows what a random one showed. Knows programs, not platforms."""
