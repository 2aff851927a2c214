"""`python -m gluonlstm` is the command line."""

from gluonlstm.cli import main

main()
