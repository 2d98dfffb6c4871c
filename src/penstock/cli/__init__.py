"""The command line: thin, over the same services as the gateway."""
