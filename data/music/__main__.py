"""python -m data.music list|pack: see README.md beside this file."""

import sys

from data.music import NAME, read
from scav_jax.features.official import main

if __name__ == "__main__":
    sys.exit(main(NAME, read, "json"))
