"""The special tokens that Dragonfly gives a meaning to, and the label that the loss ignores."""

IGNORE = -100
"""Label of a position without a target; `torch.nn.functional.cross_entropy` skips it by default."""

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
"""Padding in every released encoding, and the closing token of the released training text."""
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"

IMAGE = "<|reserved_special_token_0|>"
"""Slot of one image token: its embedding is replaced by a projected feature of the vision tower."""
NEWLINE = "<|reserved_special_token_1|>"
"""Closes every crop; its ordinary word embedding is used."""

STRUCTURAL = (BEGIN_OF_TEXT, END_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN, IMAGE, NEWLINE)
"""Every token that a tokenizer must know as one piece before Dragonfly can use it."""
