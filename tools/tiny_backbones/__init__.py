"""Makes the weights that `model=tiny` starts from; they come with the package, this code does not."""
