"""A sweep read as a study: tables, curves and one page."""
