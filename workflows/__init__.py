"""The only code that sees both branches: the stages, from configuration to files on disk."""
