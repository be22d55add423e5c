"""The platform `ssh`: the agent on a guest or LPAR that already runs, judged by its behaviour alone.

Nothing looks from outside: there are no tables, no guest RAM and no refusals to read. `paramiko` is imported when a
connection is made, and not before.

- `agentlink`: frames over the channel, with the limit of each phase
- `choice`: which machine, and how it is reached
- `connection`: connects through jump hosts, checks host keys, logs in
- `farside`: takes the agent there, and starts it
- `hostless`: which programs can be run without a view from outside
- `knownhosts`: the host keys that are trusted
- `sshsession`: the platform `ssh` as a `Session`
- `survey`: what the machine has, and which of its devices are used
"""
