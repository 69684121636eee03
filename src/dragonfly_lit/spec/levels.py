"""The colour of each level, the same in every picture; colour-blind readers tell them apart."""

COLOURS = {"low": "#0072b2", "medium": "#e69f00", "high": "#009e73"}
