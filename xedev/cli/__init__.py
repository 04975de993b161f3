"""The command ``xe-mock``."""
