"""The commands of `paddle-adaptseg` and of tools/*.py: each module parses arguments and calls one function."""
