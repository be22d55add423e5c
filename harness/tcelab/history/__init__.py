"""What became of each cell of each night, kept.

- `nightfile`: `night.json`: what a night did, cell by cell
- `signature`: what makes two findings the same one
"""
