"""What a guest's unmodified kernel executed: recorded by a plugin of QEMU's, counted in basic blocks and branches.

- `blocks`: basic blocks and conditional branches of a function's code
- `cover`: what starts QEMU asks of who records; and who records nothing
- `covermap`: the file that a QEMU's plugin marks instructions in
- `kernelcode`: functions of a kernel and of its modules, found and read
- `lcov`: a tracefile, for genhtml and other tools
- `recorder`: records the guests of one command
- `result`: what `result.json` has of it; sums and differences
- `table`: coverage by run, in Markdown
- `text`: the summary by function
- `units`: what is recorded by default: source files and modules by their functions
- `unreachable`: blocks that no guest of ours can reach, and why

`plugin.c` is the plugin; `tcelab.qemu.plugin` builds it.
"""
