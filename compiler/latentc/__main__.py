"""`python -m latentc`, as the console script."""

from latentc.cli import main

main()
