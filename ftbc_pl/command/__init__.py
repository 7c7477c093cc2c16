"""What the command line does beside parsing: what may be named, what was given, how it ends."""
