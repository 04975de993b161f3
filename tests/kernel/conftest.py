from tests.lockdep import lockdep

__all__ = ("lockdep",)
