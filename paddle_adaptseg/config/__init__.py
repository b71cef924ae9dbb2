"""Configurations: what keys there are, reading them from YAML, and plain values to typed ones."""
