"""What became of each cell of each night, kept.

- `database`: the SQLite file: opened, made, migrated; one writer at a time
- `nightfile`: `night.json`: what a night did, cell by cell
- `schema`: the file's tables, and how an older file gets them
- `signature`: what makes two findings the same one
- `store`: the history that a night writes
"""
