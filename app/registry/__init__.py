"""Which models there are, which of them are served, and how new ones come and go."""
