"""`python -m tcelab`"""

from tcelab.cli import main

main()
