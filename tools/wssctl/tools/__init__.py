"""What people use: a shell, a terminal, a bridge, transfers, mpremote."""
