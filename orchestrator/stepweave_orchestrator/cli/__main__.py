"""`python -m stepweave_orchestrator.cli`: the command line without its script on the path."""

from . import main

main()
