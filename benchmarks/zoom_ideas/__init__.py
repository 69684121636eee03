"""Zoom without training: ways of choosing crops when a trained model answers."""
