"""`python -m sdd_fast.cli`, for where the console script is not on the path."""

from sdd_fast.cli import main

main()
