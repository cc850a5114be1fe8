"""What is measured rather than tested: `make bench` runs every module here."""
