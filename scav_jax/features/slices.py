"""Slices of a split: of which clips each device's part of a batch is drawn, so that its host needs no others.

The S slices of a split are contiguous and of one size but for a clip. Of the global batch of N clips, slice s gives
those at [s N/S, (s+1) N/S), and device k of P trains on those at [k N/P, (k+1) N/P): of whole slices, or part of one.
"""


def bounds(num_clips: int, slices: int) -> list[int]:
    """The positions where the slices begin, and the end."""
    return [num_clips * index // slices for index in range(slices + 1)]


def slices_of_device(slices: int, device: int, devices: int) -> range:
    """The slices that a device's clips are drawn from. ValueError: neither number divides the other."""
    if slices % devices and devices % slices:
        raise ValueError(f"data.slices: expected a divisor or a multiple of {devices} devices, got {slices}")
    first = device * slices // devices
    return range(first, first + max(1, slices // devices))


def clips_of_device(num_clips: int, slices: int, device: int, devices: int) -> range:
    """The positions in the split of all clips that a device will ever train on."""
    own, edges = slices_of_device(slices, device, devices), bounds(num_clips, slices)
    return range(edges[own.start], edges[own.stop])
