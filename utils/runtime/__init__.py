"""What the program needs of the machine: files, processes, memory, signals, the terminal."""
