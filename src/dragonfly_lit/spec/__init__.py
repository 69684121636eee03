"""The types that travel between the rooms, and the numbers that have one owner."""
