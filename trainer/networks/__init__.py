"""The networks of every system, one file a family."""
