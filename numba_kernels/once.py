"""Attributes that are made once, by whichever thread asks first."""

from __future__ import annotations

from typing import Any, Callable, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801, a decorator
    """As ``functools.cached_property``, for objects that several threads read.

    Threads that ask at the same time may all make the value, but get the same one: kernels may read it by its address.
    There is no lock, as the one that Python has until 3.11 may be held for ever in a forked process.
    """

    def __init__(self, make: Callable[[Any], T]):
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, instance, owner=None) -> T:
        return self if instance is None else vars(instance).setdefault(self._name, self._make(instance))  # type: ignore
