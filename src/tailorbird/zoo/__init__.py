"""Models this project defines itself."""
