"""Training and inference over DGL's distributed engine."""
