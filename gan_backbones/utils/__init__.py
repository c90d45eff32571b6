"""What all three packages use: files, locks, progress bars, devices, caches, checks."""
