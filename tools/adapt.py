#!/usr/bin/env python3
"""`paddle-adaptseg adapt`, from a clone of the project."""

from _cli import run

if __name__ == "__main__":
    run("adapt")
