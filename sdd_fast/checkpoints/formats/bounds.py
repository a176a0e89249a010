"""What reading one file may cost, whatever the file says."""

from __future__ import annotations

from typing import Any

from .plain import Global, Refused


class Budget:
    """What one file may cost, the pickles inside of it included.

    Args:
        file_bytes: length of the file.
    """

    # Some 20 operations and 5 containers for each tensor: far beyond any known checkpoint.
    OPERATIONS = 2_000_000
    CONTAINERS = 500_000
    TENSORS = 100_000
    # Their hashes are not randomized: a file could choose keys that make a dict slow.
    NUMBER_KEYS = 100_000
    TUPLE_KEYS = 10_000  # all of which could have one hash

    def __init__(self, file_bytes: int) -> None:
        # An array is copied from text to bytes and from there to its place.
        self.most_copied = 3 * file_bytes + 64 * 2**20
        self._operations = 0
        self._spent: dict[str, int] = {}

    def _spend(self, kind: str, amount: int, most: int, problem: str) -> None:
        spent = self._spent[kind] = self._spent.get(kind, 0) + amount
        if spent > most:
            raise _too_much(problem.format(most))

    def charge(self, items: int) -> None:
        """Count what an operation does beyond its own size in the file, such as a copied list."""
        self._operations += items
        if self._operations > self.OPERATIONS:
            raise _too_much(f"takes more than {self.OPERATIONS:,} operations to read")

    def charge_bytes(self, copied: int) -> None:
        problem = "asks for more copies of its bytes than there can be reason for"
        self._spend("byte", copied, self.most_copied, problem)

    def container(self) -> None:
        self._spend("container", 1, self.CONTAINERS, "holds more than {:,} containers")

    def tensor(self) -> None:
        self._spend("tensor", 1, self.TENSORS, "holds more than {:,} tensors")

    def key(self, value: Any) -> Any:
        """Return `value` as a dict key or a member of a set; a class is known by its name.

        Only small keys of known types: hashing tuples in tuples in … takes unbounded time.
        """
        if type(value) is Global:
            return value.type
        if type(value) in (int, float):
            self._spend("number", 1, self.NUMBER_KEYS, "has more than {:,} numbers as keys")
        elif type(value) is tuple:
            self._spend("tuple", 1, self.TUPLE_KEYS, "has more than {:,} tuples as keys")
            if len(value) <= 16:
                return tuple(map(_scalar_key, value))
        return _scalar_key(value)


def _too_much(problem: str) -> Refused:
    return Refused(f"it {problem}, far beyond any known checkpoint")


_KEYS = frozenset((type(None), bool, int, float, str, bytes))
_LARGEST_INTEGER_KEY = 2**61 - 2  # beyond, different integers have one hash, and dicts turn slow


def _scalar_key(value: Any) -> Any:
    if type(value) not in _KEYS:
        raise ValueError(f"a dict or set has a key of type {type(value).__name__}")
    if type(value) is int and abs(value) > _LARGEST_INTEGER_KEY:
        raise ValueError("a dict or set has an integer beyond 61 bits as key")
    return value
