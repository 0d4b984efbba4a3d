"""What is kept of DGL's graphs while they live: degrees, and what other parts of the package prepare."""
