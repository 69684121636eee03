"""`python -m tools.tiny_backbones`: pretrain the tiny tower and language model that `model=tiny` starts from."""

import sys

from tools.tiny_backbones.command import main

sys.exit(main(sys.argv[1:]))
