#!/usr/bin/env python3
"""`paddle-adaptseg doctor`, from a clone of the project."""

from _cli import run

if __name__ == "__main__":
    run("doctor")
