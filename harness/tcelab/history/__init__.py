"""What became of each cell of each night, kept.

- `answers`: what the history answers, as `--json` writes it
- `answerspage`: `docs/answers.md`, made from those
- `compare`: two nights compared
- `database`: the SQLite file: opened, made, migrated; one writer at a time
- `names`: what cells and versions are called for people
- `nightfile`: `night.json`: what a night did, cell by cell
- `noise`: whether a figure changed beyond its noise
- `queries`: the nights, a finding, a cell
- `readback`: a night as it was recorded
- `schema`: the file's tables, and how an older file gets them
- `signature`: what makes two findings the same one
- `store`: the history that a night writes
- `text`: what `tcelab history` prints
- `upkeep`: nights that come from elsewhere, nights that leave
- `wording`: the message of a finding without what the next night changes
"""
