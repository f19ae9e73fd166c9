"""Networks: the trained towers (encoder.py, with its positions and blocks) and the frozen feature extractors."""
