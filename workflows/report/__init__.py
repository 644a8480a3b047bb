"""The static page that ends a demo: opens from disk, needs no server."""
