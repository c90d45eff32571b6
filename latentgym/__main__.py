"""`python -m latentgym`: the command line."""

from latentgym.cli import main

main()
