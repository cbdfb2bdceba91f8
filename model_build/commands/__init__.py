"""The command line's commands: arguments in, a table out; the packages beside this one do the work.

Each has ``add_to(commands)``, which adds its parser, and ``run(options)``, which returns the exit code. None imports
TensorFlow before it runs: ``--help`` and a wrong argument should not wait for it, and ``teach`` works without.
"""
