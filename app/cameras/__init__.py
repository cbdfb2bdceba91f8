"""From cameras to events: fetches frames, asks the service about them, and tells when what they show has changed.

A process of its own (``edge-classifier cameras``), which knows the service by its client alone.
"""
