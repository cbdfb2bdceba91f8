"""Other servers' APIs, a file each: their requests, their routes and their form of an error."""
