"""`python -m latentc.cli`: as the console script."""

from latentc.cli import main

main()
