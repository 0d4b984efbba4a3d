"""One instruction a file: what it does to a tile of rows, compiled."""
