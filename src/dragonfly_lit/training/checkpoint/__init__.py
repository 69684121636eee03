"""Checkpoints: when they are written, where they are found, and what their files hold."""
