"""A store of your own features; README.md beside this file has formats and commands."""
