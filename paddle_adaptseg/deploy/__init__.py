"""Trained networks in use: exported programs, and predictions for images and videos."""
