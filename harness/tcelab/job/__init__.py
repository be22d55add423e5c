"""A command's work, from the user's choice to the written result.

- `artefacts`: the folder of a run, and which runs are kept
- `drift`: what has changed with newer packages than the locked ones
- `job`: one run of a command, from its folder to its verdict
- `keeping`: writes a run's files; one that fails affects neither verdict nor other files
- `nested`: the platform of guests whose device is passed through to a guest inside
- `output`: files that a verb was asked to write: checked before the work, written after it
- `ownkernel`: checks a kernel that the user brings
- `parallel`: runs the parts of a program side by side
- `platforms`: the platforms by name
- `pool`: guests for tests
- `recording`: has guests record what they execute of their kernel
- `replayline`: makes the command that repeats a run
- `runoptions`: what a verb is asked to do: one typed set, settled for a program
- `series`: one scenario on several topologies
- `setup`: from what the user chose to what a session needs
"""
