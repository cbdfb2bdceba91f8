"""What the machine offers: CPUs, memory, files, threads to work in, systemd."""
