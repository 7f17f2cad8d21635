"""The command line: each subcommand is imported when it is called."""
