"""What freezing refuses."""


class FreezeError(ValueError):
    """A model, or a part of it, that has no packed form."""
