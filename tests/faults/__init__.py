"""Faults planted for real: kills, signals, full disks, dead workers. See docs/reliability.md."""
