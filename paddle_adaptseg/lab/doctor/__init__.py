"""Whether this machine computes what it should, and how fast: see checks.py for what is looked at."""
