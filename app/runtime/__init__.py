"""What the machine offers: CPUs, memory, threads to work in, systemd."""
