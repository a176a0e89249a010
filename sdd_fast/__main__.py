"""`python -m sdd_fast`: the command `sdd`, for where the console script is not on the path."""

from .cli import main

main()
