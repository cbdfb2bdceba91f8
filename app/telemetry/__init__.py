"""What is known about requests afterwards: log lines, metrics, traces. Takes values and knows nobody who gives them."""
