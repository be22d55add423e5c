"""tcelab for tests: the pytest plugin, and a guest as a fixture.

- `container`: the things of a guest that a test drives: a PE, a container, memory
- `covered`: what the guests of a test run execute of their kernel
- `expectedtable`: a table as a test sees it, and how it differs from what was expected
- `explain`: what a failed test's report says about its guest
- `plugin`: the pytest plugin and its fixtures
- `pseries`: a guest that a test drives call by call
- `transferred`: the observed result of one transfer
- `unjudged`: tests that could not be judged, and the exit code of pytest
"""
