"""For tests of programs that use an Xe device: pytest fixtures, and what they are made of.

The plugin `xedev.testing.plugin` is loaded by pytest wherever xe-mock is installed; therefore
nothing is imported here.
"""
