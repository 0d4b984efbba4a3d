"""Around the package: graphs by name, reference models, the demo, studies of accuracy and benches of speed."""
