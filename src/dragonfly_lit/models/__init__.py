"""Dragonfly itself: tower, zoom, projector, fusion, language model."""
