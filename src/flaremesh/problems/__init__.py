"""What sites optimise: the protocol of a problem, and ready problems."""
