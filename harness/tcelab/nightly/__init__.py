"""A night: many cells, each a command of its own, on all cores.

- `folder`: the folder of a night, and the lock that lets one night run at a time
- `lines`: where something stands in a TOML file
- `matrixfile`: the matrix file, read and checked
- `night`: runs the cells, and writes down what became of each
- `nightjunit`: `junit.xml` of a night
- `nighttext`: the final text
- `outcome`: what a cell's command left
- `plan`: from a matrix to the cells
- `process`: one running command with all that it starts
- `provision`: images, QEMUs and mutants, before the first cell
- `schedule`: which cell is next
"""
