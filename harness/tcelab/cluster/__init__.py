"""Campaigns on many workers: processes of this machine, or of machines that a scheduler of dask.distributed knows.

- `address`: which scheduler may be talked to, and how
- `board`: a line for each worker, while a campaign lasts
- `book`: which verdict of a task counts
- `crew`: the workers that do the work, here or there
- `far`: the workers of a cluster that exists, as the client sees them
- `farside`: what runs on a worker of a cluster
- `fit`: which workers may take part
- `perform`: one task in a folder of its own, whole or not at all
- `remote`: a task that runs on a worker of a cluster
- `split`: a fuzz campaign whose programs are tasks
- `task`: what a worker is asked to do, named by its hash

`distributed` comes with the extra `cluster`, and is imported where it is used.
"""
