"""Sequential Contrastive Audio-Visual Learning (SCAV, arXiv 2407.05782) in JAX and Flax."""

__version__ = "0.1.0"
