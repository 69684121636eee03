"""What several layers need and none owns: files that appear whole or not at all, and readers of file formats."""
