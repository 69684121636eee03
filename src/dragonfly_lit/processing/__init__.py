"""Images and text become token sequences: pure functions that the training stream and the processor share."""
