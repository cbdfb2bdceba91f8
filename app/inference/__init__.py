"""From a photo's bytes to its labels: pixels, scores, ranking. Knows neither HTTP nor settings."""
