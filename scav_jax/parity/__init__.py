"""Our numbers beside PyTorch's: a plain twin in torch, strict conversion of parameters, and a report of what differs.

    twin.py, twin_distances.py   the method in plain PyTorch, written apart from ours
    convert.py                   parameters under PyTorch's names and layouts, and back
    record.py                    what a model computed, by name: in memory, or as .npz
    theirs.py, ours.py           the record of the twin; the same numbers from ours, at any precision
    compare.py, report.py        rows with verdicts; as a table, JSON and a page

Only twin*.py and theirs.py import torch: `python -m scav_jax.parity check` runs where there is none.
"""
