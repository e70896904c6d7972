"""What a program meets on a machine: files that appear whole, signals, terminals, processors, devices; its errors."""
