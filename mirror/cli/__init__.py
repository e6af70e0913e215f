"""The command line: one module per command group, thin, prints and exits."""
