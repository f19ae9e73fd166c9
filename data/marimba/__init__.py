"""Marimba: a rendered world of audio-visual melodies, in which only the music links picture and sound."""
