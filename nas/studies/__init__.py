"""Studies that ship: does memory awareness pay? Each is one command, and writes its own document."""
