"""What a packed model computes, and in which stages."""

from .plan import Plan, PlanError

__all__ = ["Plan", "PlanError"]
