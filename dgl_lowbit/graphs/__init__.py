"""What is made of DGL's graphs, and kept while they live: degrees, and neighbours as compiled passes read them."""
