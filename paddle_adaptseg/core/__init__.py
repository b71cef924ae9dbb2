"""What everything stands on: errors, files, the machine, several processes, class names."""
